// The tiny models of Hugging Face, rewritten as GGUF files in the way that llama.cpp's converter
// does, must give the same logits.

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <map>
#include <numeric>

#include "model/safetensors.h"
#include "support/gguf_builder.h"
#include "support/model_session.h"
#include "tensor/float16.h"

namespace tangram {
namespace {

using namespace std::string_literals;

constexpr float kBound = 2e-5f;
constexpr uint32_t kF32 = 0, kF16 = 1;

std::string Folder(const std::string& name) {
  return TANGRAM_SOURCE_DIR "/tests/unit/model/golden/" + name;
}

struct Tensor {
  std::vector<float> values;
  std::vector<int64_t> dims;
};

std::map<std::string, Tensor> ReadAll(const std::string& path) {
  const auto file = SafetensorsFile::Open(path);
  EXPECT_TRUE(file.has_value()) << file.error().message;
  std::map<std::string, Tensor> all;
  for (const auto& [name, type, view] : file->tensors()) {
    Tensor& tensor = all[name];
    for (int i = 0; i < view.shape.rank(); ++i) tensor.dims.push_back(view.shape[i]);
    for (int64_t i = 0; i < view.shape.count(); ++i) {
      tensor.values.push_back(view.dtype == DType::kF32   ? view.as<float>()[i]
                              : view.dtype == DType::kF16 ? HalfToFloat(view.as<uint16_t>()[i])
                                                          : BFloatToFloat(view.as<uint16_t>()[i]));
    }
  }
  return all;
}

std::string GgufName(std::string name) {
  static const std::pair<const char*, const char*> kNames[] = {
      {"model.embed_tokens", "token_embd"},
      {"model.norm", "output_norm"},
      {"lm_head", "output"},
      {"model.layers.", "blk."},
      {"input_layernorm", "attn_norm"},
      {"post_attention_layernorm", "ffn_norm"},
      {"self_attn.q_norm", "attn_q_norm"},
      {"self_attn.k_norm", "attn_k_norm"},
      {"self_attn.q_proj", "attn_q"},
      {"self_attn.k_proj", "attn_k"},
      {"self_attn.v_proj", "attn_v"},
      {"self_attn.o_proj", "attn_output"},
      {"mlp.gate_proj", "ffn_gate"},
      {"mlp.up_proj", "ffn_up"},
      {"mlp.down_proj", "ffn_down"}};
  for (const auto& [from, to] : kNames) {
    if (const auto at = name.find(from); at != std::string::npos) {
      name.replace(at, std::strlen(from), to);
    }
  }
  return name;
}

// Llama's converter moves row i of each head's first half to 2i, and of its second half to 2i + 1.
void Interleave(Tensor& tensor, int head_dim) {
  const int64_t columns = tensor.dims[1];
  const std::vector<float> from = tensor.values;
  for (int64_t row = 0; row < tensor.dims[0]; ++row) {
    const int64_t head = row / head_dim, i = row % head_dim;
    const int64_t source = head * head_dim + (i % 2) * head_dim / 2 + i / 2;
    std::copy_n(from.begin() + source * columns, columns, tensor.values.begin() + row * columns);
  }
}

void AddTensor(GgufBuilder& builder, const std::string& name, const Tensor& tensor, uint32_t type) {
  std::string bytes;
  for (const float value : tensor.values) {
    const uint16_t half = FloatToHalf(value);
    bytes.append(
        type == kF32 ? reinterpret_cast<const char*>(&value) : reinterpret_cast<const char*>(&half),
        type == kF32 ? 4 : 2);
  }
  builder.AddTensor(name, {tensor.dims.rbegin(), tensor.dims.rend()}, type, bytes);
}

struct Spec {
  std::string name, architecture;
  int head_dim, kv_heads;
  bool yarn = false, llama3 = false;
  std::string f16_part = {};      // tensors with this in their names are stored as f16
  std::string extra_tensor = {};  // a vector that is no part of the model
};

// The divisors that llama.cpp's converter stores for Llama 3.1's scaling, for original_max 16,
// factor 4, theta 500000.
Tensor RopeFactors(int head_dim) {
  Tensor tensor{{}, {head_dim / 2}};
  for (int i = 0; i < head_dim / 2; ++i) {
    const double wavelength = 2 * M_PI * std::pow(500000.0, 2.0 * i / head_dim);
    double factor = 4;
    if (wavelength < 16 / 4.0) {
      factor = 1;
    } else if (wavelength <= 16) {
      factor = 1 / ((1 - (16 / wavelength - 1) / 3) / 4 + (16 / wavelength - 1) / 3);
    }
    tensor.values.push_back(static_cast<float>(factor));
  }
  return tensor;
}

std::string Convert(const Spec& spec) {
  GgufBuilder builder;
  const std::string p = spec.architecture + ".";
  builder.Add("general.architecture", spec.architecture)
      .Add(p + "block_count", 2u)
      .Add(p + "context_length", spec.yarn ? 16u : 64u)
      .Add(p + "embedding_length", 32u)
      .Add(p + "feed_forward_length", 64u)
      .Add(p + "attention.head_count", 4u)
      .Add(p + "attention.head_count_kv", static_cast<uint32_t>(spec.kv_heads))
      .Add(p + "attention.key_length", static_cast<uint32_t>(spec.head_dim))
      .Add(p + "attention.value_length", static_cast<uint32_t>(spec.head_dim))
      .Add(p + "attention.layer_norm_rms_epsilon", 1e-5f)
      .Add(p + "rope.freq_base", spec.llama3 ? 500000.0f : 10000.0f);
  if (spec.yarn) {
    builder.Add(p + "rope.scaling.type", "yarn"s)
        .Add(p + "rope.scaling.factor", 4.0f)
        .Add(p + "rope.scaling.original_context_length", 16u);
  }
  if (spec.llama3) AddTensor(builder, "rope_freqs.weight", RopeFactors(spec.head_dim), kF32);
  for (auto& [name, tensor] : ReadAll(Folder(spec.name) + "/model.safetensors")) {
    const bool rotated = name.ends_with("q_proj.weight") || name.ends_with("k_proj.weight");
    if (spec.architecture == "llama" && rotated) Interleave(tensor, spec.head_dim);
    const bool half = !spec.f16_part.empty() && name.find(spec.f16_part) != std::string::npos;
    AddTensor(builder, GgufName(name), tensor, half ? kF16 : kF32);
  }
  if (!spec.extra_tensor.empty()) {
    AddTensor(builder, spec.extra_tensor, {std::vector<float>(32), {32}}, kF32);
  }
  return builder.Build();
}

class GgufModelTest : public testing::TestWithParam<Spec> {};

TEST_P(GgufModelTest, LogitsEqualTheSafetensorsModels) {
  const Spec& spec = GetParam();
  const auto path =
      std::filesystem::path(testing::TempDir()) / (spec.name + spec.f16_part + ".gguf");
  std::ofstream(path, std::ios::binary) << Convert(spec);
  for (const bool reference : {true, false}) {
    auto backend = reference ? ops::CreateReferenceBackend() : ops::CreateCpuBackend(2);
    auto model = LoadModel(path, {}, *backend);
    ASSERT_TRUE(model.has_value()) << model.error().message;
    auto golden = ReadAll(Folder(spec.name) + "/expected.safetensors");
    const auto& numbers = golden["tokens"].values;
    const std::vector<int32_t> tokens(numbers.begin(), numbers.end());
    std::vector<int32_t> rows(tokens.size());
    std::iota(rows.begin(), rows.end(), 0);
    ModelSession session(**model, *backend, DType::kF32, 64);
    const auto logits = session.Step(tokens, rows);
    const auto& expected = golden["logits"].values;
    ASSERT_EQ(logits.size(), expected.size());
    float largest = 0, difference = 0;
    for (size_t i = 0; i < logits.size(); ++i) {
      largest = std::max(largest, std::abs(expected[i]));
      difference = std::max(difference, std::abs(logits[i] - expected[i]));
    }
    EXPECT_LE(difference, kBound * largest) << (reference ? "reference" : "fast");
  }
  std::filesystem::remove(path);
}

INSTANTIATE_TEST_SUITE_P(
    Models, GgufModelTest,
    testing::Values(Spec{"llama31_bf16", "llama", 8, 2, false, true},
                    Spec{"qwen2_yarn_tied_bf16", "qwen2", 8, 2, true},
                    // These bf16 values are exact in f16 too. Mixed types split the product.
                    Spec{"qwen3_tied_bf16", "qwen3", 16, 2, false, false, "v_proj.weight"},
                    Spec{"qwen3_tied_bf16", "qwen3", 16, 2, false, false, "gate_proj.weight"}),
    [](const auto& param) {
      std::string name = param.param.name + "_" + param.param.f16_part;
      std::erase(name, '.');
      return name;
    });

Error LoadError(const Spec& spec) {
  const auto path = std::filesystem::path(testing::TempDir()) / "refused.gguf";
  std::ofstream(path, std::ios::binary) << Convert(spec);
  auto backend = ops::CreateReferenceBackend();
  const auto model = LoadModel(path, {}, *backend);
  std::filesystem::remove(path);
  EXPECT_FALSE(model.has_value());
  return model ? Error{} : model.error();
}

TEST(GgufModelErrorTest, TensorsThatNobodyTakesAreRefused) {
  // An output bias that the architecture does not know would be missing from the result.
  const Error error = LoadError({.name = "qwen3_tied_bf16",
                                 .architecture = "qwen3",
                                 .head_dim = 16,
                                 .kv_heads = 2,
                                 .extra_tensor = "blk.1.attn_output.bias"});
  EXPECT_EQ(error.kind, ErrorKind::kUnsupported);
  EXPECT_NE(error.message.find("blk.1.attn_output.bias"), std::string::npos) << error.message;
}

TEST(GgufModelErrorTest, MissingAndMisshapenTensorsAreNamed) {
  // Qwen3's tensors under Qwen2's name lack the biases.
  Error error = LoadError(
      {.name = "qwen3_tied_bf16", .architecture = "qwen2", .head_dim = 16, .kv_heads = 2});
  EXPECT_EQ(error.kind, ErrorKind::kUnsupported);
  EXPECT_NE(error.message.find("'blk.0.attn_q.bias' is missing"), std::string::npos)
      << error.message;
  error = LoadError(
      {.name = "qwen3_tied_bf16", .architecture = "qwen3", .head_dim = 16, .kv_heads = 4});
  EXPECT_EQ(error.kind, ErrorKind::kUnsupported);
  EXPECT_NE(error.message.find("'blk.0.attn_k.weight' is [32, 32], and not [64, 32]"),
            std::string::npos)
      << error.message;
}

}  // namespace
}  // namespace tangram
