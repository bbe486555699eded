#include "model/config.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "model/gguf.h"
#include "support/gguf_builder.h"
#include "support/test_folder.h"

namespace tangram {
namespace {

using Json = nlohmann::json;
using namespace std::string_literals;

Json LlamaConfig() {
  return Json::parse(R"({
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
    "num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 100, "max_position_embeddings": 512, "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0, "bos_token_id": 1, "eos_token_id": [2, 3], "attention_bias": false})");
}

Json WithArchitecture(const char* name) {
  Json config = LlamaConfig();
  config["architectures"] = {name};
  return config;
}

class HfConfigTest : public testing::Test {
 protected:
  Result<ModelConfig> Read(const Json& config, const Json& generation = nullptr) {
    std::ofstream(folder_ / "config.json") << config;
    if (!generation.is_null()) std::ofstream(folder_ / "generation_config.json") << generation;
    return ReadHfConfig(folder_);
  }
  void ExpectError(const Json& config, std::string_view part) {
    const auto result = Read(config);
    ASSERT_FALSE(result.has_value()) << "expected: " << part;
    EXPECT_EQ(result.error().kind, ErrorKind::kUnsupported) << result.error().message;
    EXPECT_NE(result.error().message.find(part), std::string::npos) << result.error().message;
    EXPECT_NE(result.error().message.find("config.json"), std::string::npos);
  }
  void ExpectRefused(Json config, const char* field, const Json& value) {
    config[field] = value;
    ExpectError(config, field);
  }

  TestFolder own_;
  const std::filesystem::path folder_ = own_.path();
};

TEST_F(HfConfigTest, ReadsWhatALlamaIs) {
  const auto config = Read(LlamaConfig());
  ASSERT_TRUE(config.has_value()) << config.error().message;
  EXPECT_EQ(config->architecture, Architecture::kLlama);
  EXPECT_EQ(config->num_layers, 2);
  EXPECT_EQ(config->head_dim, 16);
  EXPECT_EQ(config->q_per_kv(), 2);
  EXPECT_EQ(config->max_position_embeddings, 512);
  EXPECT_EQ(config->rope.theta, 500000.0);
  EXPECT_EQ(config->bos_token_id, 1);
  EXPECT_EQ(config->eos_token_ids, (std::vector<int32_t>{2, 3}));
  EXPECT_FALSE(config->attention_bias || config->qk_norm || config->tie_word_embeddings);
}

TEST_F(HfConfigTest, ArchitecturesDifferAsTheyShould) {
  const auto qwen2 = Read(WithArchitecture("Qwen2ForCausalLM"));
  ASSERT_TRUE(qwen2.has_value()) << qwen2.error().message;
  EXPECT_TRUE(qwen2->attention_bias);
  EXPECT_FALSE(qwen2->qk_norm);
  const auto qwen3 = Read(WithArchitecture("Qwen3ForCausalLM"));
  ASSERT_TRUE(qwen3.has_value()) << qwen3.error().message;
  EXPECT_FALSE(qwen3->attention_bias);
  EXPECT_TRUE(qwen3->qk_norm);
  EXPECT_EQ(qwen3->head_dim, 128);  // Qwen3's own default
  ExpectError(WithArchitecture("MixtralForCausalLM"), "MixtralForCausalLM");
  Json none = LlamaConfig();
  none.erase("architectures");
  ExpectError(none, "LlamaForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM");
}

TEST_F(HfConfigTest, GenerationConfigAddsEosAndSamplingDefaults) {
  const auto config = Read(LlamaConfig(), {{"eos_token_id", {3, 7}},
                                           {"temperature", 0.6},
                                           {"top_k", 20},
                                           {"top_p", nullptr},
                                           {"repetition_penalty", 1.05}});
  ASSERT_TRUE(config.has_value()) << config.error().message;
  EXPECT_EQ(config->eos_token_ids, (std::vector<int32_t>{2, 3, 7}));
  EXPECT_FLOAT_EQ(*config->generation.temperature, 0.6f);
  EXPECT_FLOAT_EQ(*config->generation.repetition_penalty, 1.05f);
  EXPECT_EQ(config->generation.top_k, 20);
  EXPECT_FALSE(config->generation.top_p.has_value());
}

TEST_F(HfConfigTest, RefusesWhatWouldChangeTheResult) {
  const Json config = LlamaConfig();
  ExpectRefused(config, "hidden_act", "gelu");
  ExpectRefused(config, "attention_bias", true);
  ExpectRefused(config, "mlp_bias", true);
  ExpectRefused(config, "quantization_config", {{"quant_method", "awq"}});
  ExpectRefused(config, "num_local_experts", 8);
  ExpectRefused(config, "final_logit_softcapping", 30.0);
  ExpectRefused(config, "partial_rotary_factor", 0.5);
  ExpectRefused(config, "layer_types", {"full_attention", "sliding_attention"});
  ExpectRefused(WithArchitecture("Qwen3ForCausalLM"), "attention_bias", true);
}

TEST_F(HfConfigTest, SlidingWindowsAreRefusedWhereTheyAreUsed) {
  Json config = WithArchitecture("Qwen2ForCausalLM");
  config["sliding_window"] = 128;
  EXPECT_TRUE(Read(config).has_value());
  config["use_sliding_window"] = true;
  config["max_window_layers"] = 1;
  ExpectError(config, "use_sliding_window");
  config["max_window_layers"] = 2;  // no layer is above it
  EXPECT_TRUE(Read(config).has_value());
}

TEST_F(HfConfigTest, RopeScalingInBothSpellings) {
  Json older = LlamaConfig(), newer = LlamaConfig();
  const Json yarn = {{"factor", 4.0}, {"original_max_position_embeddings", 256}};
  older["rope_scaling"] = yarn;
  older["rope_scaling"]["type"] = "yarn";
  newer.erase("rope_theta");
  newer["rope_parameters"] = yarn;
  newer["rope_parameters"]["rope_type"] = "yarn";
  newer["rope_parameters"]["rope_theta"] = 500000.0;
  for (const Json& json : {older, newer}) {
    const auto config = Read(json);
    ASSERT_TRUE(config.has_value()) << config.error().message;
    EXPECT_EQ(config->rope.scaling, RopeScaling::kYarn);
    EXPECT_EQ(config->rope.theta, 500000.0);
    EXPECT_EQ(config->rope.original_max_position, 256);
    EXPECT_EQ(config->max_position_embeddings, 1024);
    EXPECT_NEAR(config->rope.attention_factor, 1.1386294, 1e-6);
  }
}

TEST_F(HfConfigTest, ScalingStretchesTheContextAsItsKindSays) {
  const auto longest = [&](Json scaling) {
    Json json = LlamaConfig();
    json["rope_scaling"] = std::move(scaling);
    const auto config = Read(json);
    return config ? config->max_position_embeddings : -1;
  };
  EXPECT_EQ(longest(nullptr), 512);
  EXPECT_EQ(longest({{"rope_type", "default"}}), 512);
  EXPECT_EQ(longest({{"rope_type", "linear"}, {"factor", 2.0}}), 1024);
  EXPECT_EQ(longest({{"rope_type", "dynamic"}, {"factor", 2.0}}), 1024);
  EXPECT_EQ(longest({{"rope_type", "llama3"},
                     {"factor", 8.0},
                     {"low_freq_factor", 1.0},
                     {"high_freq_factor", 4.0},
                     {"original_max_position_embeddings", 64}}),
            512);
}

TEST_F(HfConfigTest, RefusesOtherRopeTypesAndFields) {
  Json config = LlamaConfig();
  config["rope_scaling"] = {{"rope_type", "longrope"}, {"factor", 2.0}};
  ExpectError(config, "longrope");
  config["rope_scaling"] = {{"rope_type", "default"}, {"mrope_section", {1, 2}}};
  ExpectError(config, "mrope_section");
  config["rope_scaling"] = {{"rope_type", "linear"}, {"factor", -1.0}};
  ExpectError(config, "factor");
  config["rope_scaling"] = "yarn";
  ExpectError(config, "rope_scaling");
}

TEST_F(HfConfigTest, NamesTheFieldThatIsMissingOrAbsurd) {
  const auto broken = [&](const char* field, const Json& value) {
    Json config = LlamaConfig();
    config[field] = value;
    ExpectError(config, field);
  };
  broken("hidden_size", nullptr);
  broken("hidden_size", "64");
  broken("hidden_size", -64);
  broken("num_hidden_layers", 0);
  broken("vocab_size", uint64_t{1} << 40);
  broken("vocab_size", 1.5);
  broken("eos_token_id", "</s>");
  broken("rms_norm_eps", "small");
  Json config = LlamaConfig();
  config["num_key_value_heads"] = 3;
  ExpectError(config, "4 attention heads cannot share 3");
  config = LlamaConfig();
  config["head_dim"] = 15;
  ExpectError(config, "odd");
}

GgufBuilder LlamaGguf() {
  GgufBuilder builder;
  builder.Add("general.architecture", "llama"s)
      .Add("llama.block_count", 2u)
      .Add("llama.context_length", 512u)
      .Add("llama.embedding_length", 64u)
      .Add("llama.feed_forward_length", 128u)
      .Add("llama.attention.head_count", 4u)
      .Add("llama.attention.head_count_kv", 2u)
      .Add("llama.attention.layer_norm_rms_epsilon", 1e-5f)
      .Add("llama.rope.freq_base", 500000.0f)
      .Add("tokenizer.ggml.eos_token_id", 1u)
      .AddArray("tokenizer.ggml.tokens", std::vector{"a"s, "</s>"s, "<|im_end|>"s, "<|eot_id|>"s})
      .AddArray("tokenizer.ggml.token_type", std::vector<int32_t>{1, 3, 3, 1})
      .AddTensor("token_embd.weight", {64, 4}, 0, std::string(1024, '\0'));
  return builder;
}

Result<ModelConfig> ReadGguf(const GgufBuilder& builder) {
  const auto file = GgufFile::Parse(ToBuffer(builder.Build()), "test.gguf");
  EXPECT_TRUE(file.has_value());
  return ReadGgufConfig(*file, "test.gguf");
}

void ExpectGgufError(const GgufBuilder& builder, std::string_view part) {
  const auto config = ReadGguf(builder);
  ASSERT_FALSE(config.has_value()) << "expected: " << part;
  EXPECT_EQ(config.error().kind, ErrorKind::kUnsupported) << config.error().message;
  EXPECT_NE(config.error().message.find(part), std::string::npos) << config.error().message;
}

TEST(GgufConfigTest, ReadsWhatALlamaIs) {
  const auto config = ReadGguf(LlamaGguf());
  ASSERT_TRUE(config.has_value()) << config.error().message;
  EXPECT_EQ(config->architecture, Architecture::kLlama);
  EXPECT_EQ(config->rope_style, ops::RopeStyle::kInterleaved);
  EXPECT_EQ(config->head_dim, 16);
  EXPECT_EQ(config->vocab_size, 4);
  EXPECT_TRUE(config->tie_word_embeddings);
  // The stated eos, and the control token that ends a turn; the same text as an ordinary token does
  // not.
  EXPECT_EQ(config->eos_token_ids, (std::vector<int32_t>{1, 2}));
}

TEST(GgufConfigTest, RefusesWhatWouldChangeTheResult) {
  ExpectGgufError(LlamaGguf().Add("llama.expert_count", 8u), "llama.expert_count");
  ExpectGgufError(LlamaGguf().Add("llama.rope.dimension_count", 8u), "rope.dimension_count");
  ExpectGgufError(LlamaGguf().Add("llama.attention.value_length", 8u), "value_length");
  ExpectGgufError(LlamaGguf().Add("llama.rope.scaling.type", "longrope"s), "longrope");
  ExpectGgufError(LlamaGguf().Add("llama.logit_scale", 2.0f), "llama.logit_scale");
  ExpectGgufError(LlamaGguf().Add("split.count", 3u), "split");
  ExpectGgufError(GgufBuilder().Add("general.architecture", "gemma"s), "gemma");
  ExpectGgufError(GgufBuilder().Add("general.architecture", "llama"s), "llama.block_count");
}

TEST(GgufConfigTest, RefusesSizesForEachLayer) {
  GgufBuilder builder;
  builder.Add("general.architecture", "llama"s)
      .AddArray("llama.block_count", std::vector<uint32_t>{1, 2});
  ExpectGgufError(builder, "llama.block_count");
}

TEST(GgufConfigTest, YarnKeepsLlamaCppsAttentionFactor) {
  const auto config = ReadGguf(LlamaGguf()
                                   .Add("llama.rope.scaling.type", "yarn"s)
                                   .Add("llama.rope.scaling.factor", 4.0f)
                                   .Add("llama.rope.scaling.original_context_length", 256u));
  ASSERT_TRUE(config.has_value()) << config.error().message;
  EXPECT_EQ(config->rope.scaling, RopeScaling::kYarn);
  EXPECT_EQ(config->max_position_embeddings, 1024);
  EXPECT_NEAR(config->rope.attention_factor, 1.1386294, 1e-6);
}

}  // namespace
}  // namespace tangram
