// What the engine answers on the default model, to the bit: token ids and log probabilities of
// every scorer, in golden/engine.tsv. What only moves code must pass. What is meant to change bits
// makes the file anew, with the whole test, and says why:
//
//   TANGRAM_REGENERATE_GOLDEN=1 build/release/tests/unit/engine/engine_golden_test

#include "engine_golden.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <future>
#include <memory>

#include "base/check.h"
#include "base/log.h"
#include "compression/profile.h"
#include "model/safetensors.h"

namespace tangram {
namespace {

constexpr int kAnswer = 16;  // tokens
constexpr int kChunk = 256;  // half of the default: boundaries in shorter prompts

// `count` tokens of a long text, from `begin` on: the longest prompt of smollm2_test.
std::vector<TokenId> Text(int begin, int count) {
  static const auto file =
      SafetensorsFile::Open(TANGRAM_SOURCE_DIR "/tests/unit/model/smollm2_golden.safetensors");
  EXPECT_TRUE(file.has_value()) << file.error().message;
  const auto* tokens = file->Find("19.tokens").as<float>();
  return {tokens + begin, tokens + begin + count};
}

Request MakeRequest(std::vector<TokenId> prompt, float ratio) {
  Request request;
  request.prompt = std::move(prompt);
  request.compression_ratio = ratio;
  request.sampling.temperature = 0;
  request.sampling.num_logprobs = 2;
  request.stop.max_tokens = kAnswer;
  request.stop.ignore_eos = true;
  return request;
}

EngineConfig PlainConfig() {
  EngineConfig config;
  config.model_path = TANGRAM_SOURCE_DIR "/models/SmolLM2-135M-Instruct.Q4_1.gguf";
  config.max_model_len = 4200;
  config.kv_cache_memory_bytes = 256 << 20;
  return config;
}

EngineConfig CompressedConfig(Scorer scorer, int chunk = kChunk) {
  EngineConfig config = PlainConfig();
  config.compression.ratio = 0.3f;
  config.compression.chunk = chunk;
  config.compression.scorer = scorer;
  config.compression.level = DefaultLevel(scorer);
  config.compression_profile =
      TANGRAM_SOURCE_DIR "/profiles/SmolLM2-135M-Instruct.profile.safetensors";
  return config;
}

std::unique_ptr<Engine> Start(const EngineConfig& config) {
  auto engine = Engine::Create(config);
  TANGRAM_CHECK(engine.has_value(), "{}; scripts/setup fetches the model", engine.error().message);
  return std::move(*engine);
}

std::future<GoldenAnswer> Submit(Engine& engine, Request request) {
  struct Pending {
    GoldenAnswer answer;
    std::promise<GoldenAnswer> promise;
  };
  auto pending = std::make_shared<Pending>();
  auto answer = pending->promise.get_future();
  const auto id = engine.Submit(std::move(request), [pending](const TokenEvent& event) {
    pending->answer.Add(event);
    if (event.finished) pending->promise.set_value(std::move(pending->answer));
  });
  EXPECT_TRUE(id) << id.error().message;
  return answer;
}

class EngineGoldenTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    SetLogLevel(LogLevel::kError);
    UseGoldenKernels();
  }
  static void TearDownTestSuite() { Golden().Finish(); }
  void SetUp() override {
    const std::string why = Golden().WhyNotComparable();
    if (!why.empty()) GTEST_SKIP() << why;
  }

  static EngineGolden& Golden() {
    static EngineGolden golden(TANGRAM_SOURCE_DIR "/tests/unit/engine/golden/engine.tsv");
    return golden;
  }
  // Asks for a continuation of tokens of the text and checks it.
  static GoldenAnswer Ask(Engine& engine, const std::string& setting, int begin, int count,
                          float ratio) {
    const GoldenAnswer answer = Submit(engine, MakeRequest(Text(begin, count), ratio)).get();
    Golden().Check(Name(setting, count, ratio), answer);
    return answer;
  }
  static std::string Name(const std::string& setting, int count, float ratio) {
    return fmt::format("{}, ratio {:.1f}, prompt of {}", setting, ratio, count);
  }
};

TEST_F(EngineGoldenTest, WithoutCompression) {
  const auto engine = Start(PlainConfig());
  Ask(*engine, "none", 4000, 10, 1);
  Ask(*engine, "none", 2000, 300, 1);
  Ask(*engine, "none", 1000, 1100, 1);
  Ask(*engine, "none", 0, 4000, 1);
}

class ScorerGoldenTest : public EngineGoldenTest, public testing::WithParamInterface<Scorer> {};

// Prompts of up to four chunks from distinct places, so that nothing of one is cached for another.
// An answer crosses a boundary, too: 512.
TEST_P(ScorerGoldenTest, RatiosAndLengths) {
  const auto engine = Start(CompressedConfig(GetParam()));
  const std::string scorer(ScorerName(GetParam()));
  Ask(*engine, scorer, 3000, 10, 1);
  Ask(*engine, scorer, 3010, 300, 1);
  Ask(*engine, scorer, 3310, 10, 0.3f);
  Ask(*engine, scorer, 3320, 10, 0.2f);
  Ask(*engine, scorer, 3330, 300, 0.3f);
  Ask(*engine, scorer, 2500, 500, 0.2f);
  // A conversation of two turns; the second finds the first's compressed pages.
  const auto first = Ask(*engine, scorer, 0, 1100, 0.3f);
  std::vector<TokenId> prompt = Text(0, 1100);
  for (const GoldenToken& t : first.tokens) prompt.push_back(t.token);
  for (const TokenId token : Text(3700, 60)) prompt.push_back(token);
  const auto second = Submit(*engine, MakeRequest(prompt, 0.3f)).get();
  EXPECT_GT(second.cached, 0);
  Golden().Check(Name(scorer + ", second turn", static_cast<int>(prompt.size()), 0.3f), second);
}

INSTANTIATE_TEST_SUITE_P(Scorers, ScorerGoldenTest,
                         testing::Values(Scorer::kGate, Scorer::kReconstruction, Scorer::kKeyDiff,
                                         Scorer::kExpectedAttention, Scorer::kSnapKv, Scorer::kTova,
                                         Scorer::kStreamingLlm),
                         [](const auto& scorer) { return std::string(ScorerName(scorer.param)); });

// As it is served by default: chunks of 512.
TEST_F(EngineGoldenTest, LongPrompts) {
  for (const Scorer scorer : {Scorer::kGate, Scorer::kKeyDiff}) {
    const auto engine = Start(CompressedConfig(scorer, 512));
    Ask(*engine, fmt::format("{}, chunks of 512", ScorerName(scorer)), 0, 4000, 0.3f);
  }
}

TEST_F(EngineGoldenTest, LevelsAndTypesOfTheCache) {
  for (const BudgetLevel level : {BudgetLevel::kUniform, BudgetLevel::kPerLayer}) {
    EngineConfig config = CompressedConfig(Scorer::kGate);
    config.compression.level = level;
    config.page_group_size = 1;  // with all heads of a layer in a group, the two are one
    Ask(*Start(config), fmt::format("gate, {}", LevelName(level)), 0, 300, 0.3f);
  }
  for (const char* type : {"bf16", "f32"}) {
    EngineConfig config = CompressedConfig(Scorer::kGate);
    config.kv_cache_dtype = type;
    Ask(*Start(config), fmt::format("gate, {}", type), 0, 300, 0.3f);
  }
}

// Prompts of several lengths and ratios share steps, which are short, so that most answers begin
// while longer prompts still run. Every fourth answer is sampled.
TEST_F(EngineGoldenTest, RequestsAtOnce) {
  EngineConfig config = CompressedConfig(Scorer::kGate);
  config.max_num_batched_tokens = 128;
  config.enable_prefix_caching =
      false;  // what it has of another request's first tokens hangs on time
  const auto engine = Start(config);
  const std::vector<int> lengths = {10, 40, 130, 257, 300, 420, 515, 700};
  std::vector<std::future<GoldenAnswer>> answers;
  const auto ratio = [](size_t i) { return i % 3 == 0 ? 0.3f : i % 3 == 1 ? 1.0f : 0.2f; };
  int begin = 0;
  for (size_t i = 0; i < lengths.size(); ++i) {
    Request request = MakeRequest(Text(begin, lengths[i]), ratio(i));
    request.sampling.temperature = i % 4 == 3 ? 0.8f : 0.0f;
    request.sampling.seed = i;
    answers.push_back(Submit(*engine, std::move(request)));
    begin += lengths[i];
  }
  for (size_t i = 0; i < lengths.size(); ++i) {
    Golden().Check(Name("gate, at once", lengths[i], ratio(i)), answers[i].get());
  }
}

// The same case as RatiosAndLengths'.
TEST_F(EngineGoldenTest, ThreadsChangeNoBit) {
  for (const int threads : {1, 3}) {
    EngineConfig config = CompressedConfig(Scorer::kGate);
    config.num_threads = threads;
    Ask(*Start(config), "gate", 3330, 300, 0.3f);
  }
}

// fastkvzip has no gates for the default model: random ones for a tiny model, with demands made up.
std::string TinyProfile() {
  Profile profile;
  profile.num_layers = profile.num_kv_heads = 2;
  profile.hidden_size = 32;
  profile.num_samples = profile.sample_tokens = 1;
  ScorerProfile& measured = profile.scorers[Scorer::kFastKvzip];
  measured.demand = {2, 2, {0.2f, 0.5f}, {0.1f, 0.3f, 0.25f, 0.15f, 0.3f, 0.7f, 0.6f, 0.4f}};
  measured.spread.assign(8, 0.0f);
  measured.stability = {1.0f};
  const std::string path = testing::TempDir() + "engine_golden.profile.safetensors";
  EXPECT_TRUE(SaveProfile(profile, path));
  return path;
}

TEST_F(EngineGoldenTest, FastKvzipOnATinyModel) {
  EngineConfig config = CompressedConfig(Scorer::kFastKvzip, 16);
  config.model_path = TANGRAM_SOURCE_DIR "/tests/unit/model/golden/qwen3_tied_bf16";
  config.compression_gate =
      TANGRAM_SOURCE_DIR "/tests/unit/compression/golden/fastkvzip_qwen3_tied_bf16.safetensors";
  config.compression_profile = TinyProfile();
  config.max_model_len = 64;
  config.page_size = 4;
  config.compression.window = 4;
  config.compression.sinks = 2;
  for (const bool reference : {false, true}) {
    config.device = reference ? "reference" : "cpu";
    const auto engine = Start(config);
    for (const float ratio : {1.0f, 0.3f, 0.2f}) {
      std::vector<TokenId> prompt = Text(300, 44);
      for (TokenId& token : prompt) token %= engine->info().vocab_size;
      const auto answer = Submit(*engine, MakeRequest(std::move(prompt), ratio)).get();
      const char* backend = reference ? "fastkvzip, tiny, reference backend" : "fastkvzip, tiny";
      Golden().Check(Name(backend, 44, ratio), answer);
    }
  }
}

}  // namespace
}  // namespace tangram
