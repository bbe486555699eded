// Compression on a tiny model: what is generated hangs on the tokens alone, and rows are as long as
// the table says.

#include <gtest/gtest.h>

#include <filesystem>
#include <numeric>

#include "engine/calibration.h"
#include "engine/single_sequence.h"
#include "support/engine_session.h"

namespace tangram {
namespace {

constexpr int kPageSize = 4, kChunk = 16;
constexpr const char* kRandomGates =
    TANGRAM_SOURCE_DIR "/tests/unit/engine/golden/fastkvzip_qwen3_tied_bf16.safetensors";

CompressionConfig TinyCompression(float ratio, Scorer scorer, BudgetLevel level) {
  CompressionConfig c;
  c.ratio = ratio;
  c.chunk = kChunk;
  c.window = 4;
  c.sinks = 2;
  c.scorer = scorer;
  c.level = level;
  return c;
}

// Calibrates the tiny model once, into a file of the test's own.
const std::string& TinyProfile() {
  static const std::string path = [] {
    auto backend = ops::CreateCpuBackend(2);
    LoadOptions load;
    auto model = LoadModel(TinyConfig().model_path, load, *backend);
    EXPECT_TRUE(model) << model.error().message;
    std::vector<std::vector<TokenId>> texts;
    for (uint32_t i = 0; i < 4; ++i) {
      texts.push_back(MakeRequest(1000 + i, 48, 1, (*model)->config().vocab_size).prompt);
    }
    CalibrationOptions options;
    options.compression = TinyCompression(1, Scorer::kGate, BudgetLevel::kCrossLayer);
    options.ratios = {0.3f, 0.5f};
    options.page_size = kPageSize;
    options.compression_gate = kRandomGates;
    const std::vector<TokenId> repeat = {1, 2, 3};
    auto profile = Calibrate(**model, *backend, texts, repeat, options);
    EXPECT_TRUE(profile) << profile.error().message;
    const std::string file = testing::TempDir() + "tiny_profile.safetensors";
    EXPECT_TRUE(SaveProfile(*profile, file));
    return file;
  }();
  return path;
}

EngineConfig TinyCompressed(float ratio, Scorer scorer, BudgetLevel level) {
  EngineConfig config = TinyConfig();
  config.page_size = kPageSize;
  config.compression = TinyCompression(ratio, scorer, level);
  config.compression_profile = TinyProfile();
  config.compression_gate = kRandomGates;
  return config;
}

using Setting = std::tuple<Scorer, BudgetLevel, float>;
class CompressedEngineTest : public testing::TestWithParam<Setting> {
 protected:
  EngineConfig Config() const {
    const auto& [scorer, level, ratio] = GetParam();
    return TinyCompressed(ratio, scorer, level);
  }
};

TEST_P(CompressedEngineTest, TokensDoNotDependOnLoadChunkingPreemptionOrTheCache) {
  EngineConfig config = Config();
  config.enable_prefix_caching = false;
  config.max_num_batched_tokens = 64;
  const auto expected = RunOneByOne(*Start(config), 20);
  EXPECT_EQ(RunTogether(*Start(config), 20), expected);
  for (int budget : {1, 7, 32, 128, 512}) {
    config.max_num_batched_tokens = budget;
    EXPECT_EQ(RunTogether(*Start(config), 20), expected) << budget << " tokens a step";
  }
  config.enable_prefix_caching = true;
  config.num_pages_override = 16;  // 64 whole tokens for requests of up to 62
  auto engine = Start(config);
  EXPECT_EQ(RunTogether(*engine, 20), expected);
  EXPECT_EQ(RunTogether(*engine, 20), expected) << "on what the cache kept";
  EXPECT_EQ(engine->Stats().pages_held, 0);
}

// Going apart inside a chunk: its tokens lie in shared pages, but each sequence scores them by what
// came after.
TEST_P(CompressedEngineTest, ACommonBeginningIsScoredByEachForItself) {
  EngineConfig config = Config();
  const auto requests = [&](const Engine& engine) {
    const int vocab = engine.info().vocab_size;
    const auto common = MakeRequest(500, kChunk + kChunk / 2, 1, vocab).prompt;
    std::vector<Request> made;
    for (uint32_t i = 0; i < 6; ++i) {
      made.push_back(MakeRequest(600 + i, 3 + static_cast<int>(i), 20, vocab));
      made.back().prompt.insert(made.back().prompt.begin(), common.begin(), common.end());
      made.back().compression_ratio = config.compression.ratio;
    }
    return made;
  };
  config.enable_prefix_caching = false;
  auto plain = Start(config);
  std::vector<std::vector<TokenId>> expected;
  for (const Request& request : requests(*plain)) expected.push_back(RunAlone(*plain, request));
  config.enable_prefix_caching = true;
  auto engine = Start(config);
  for (int round = 0; round < 3; ++round) {
    std::vector<Collector> collectors(expected.size());
    const auto made = requests(*engine);
    for (size_t i = 0; i < made.size(); ++i) {
      ASSERT_TRUE(engine->Submit(made[i], collectors[i].Listener()));
    }
    for (size_t i = 0; i < made.size(); ++i) {
      EXPECT_EQ(collectors[i].Wait(), expected[i]) << "round " << round << " request " << i;
    }
  }
  EXPECT_GT(engine->Stats().prefix_cache_hits, 0u);
}

INSTANTIATE_TEST_SUITE_P(
    Settings, CompressedEngineTest,
    testing::Values(Setting{Scorer::kGate, BudgetLevel::kCrossLayer, 0.3f},
                    Setting{Scorer::kGate, BudgetLevel::kPerLayer, 0.5f},
                    Setting{Scorer::kGate, BudgetLevel::kUniform, 0.5f},
                    Setting{Scorer::kKeyDiff, BudgetLevel::kCrossLayer, 0.3f},
                    Setting{Scorer::kFastKvzip, BudgetLevel::kCrossLayer, 0.3f},
                    Setting{Scorer::kReconstruction, BudgetLevel::kCrossLayer, 0.3f},
                    Setting{Scorer::kExpectedAttention, BudgetLevel::kPerLayer, 0.5f},
                    Setting{Scorer::kSnapKv, BudgetLevel::kCrossLayer, 0.3f},
                    Setting{Scorer::kTova, BudgetLevel::kPerLayer, 0.5f},
                    Setting{Scorer::kStreamingLlm, BudgetLevel::kUniform, 0.3f}));

TEST(CompressionTest, RatioOneIsThePathWithoutCompression) {
  EngineConfig config = TinyCompressed(0.3f, Scorer::kGate, BudgetLevel::kCrossLayer);
  auto compressed = Start(config);
  config.compression = {};
  auto plain = Start(config);
  int differing = 0;
  for (int i = 0; i < 12; ++i) {
    Request request = MixedRequest(*plain, i);
    const auto tokens = RunAlone(*plain, request);
    EXPECT_EQ(RunAlone(*compressed, request), tokens) << i;
    request.compression_ratio = 0.3f;
    differing += RunAlone(*compressed, request) != tokens ? 1 : 0;
  }
  EXPECT_GT(differing, 0) << "compression changes nothing: is it on?";
}

TEST(CompressionTest, RatiosAndProfilesThatDoNotFitAreRefused) {
  const auto error = [](auto change) {
    EngineConfig config = TinyCompressed(0.3f, Scorer::kGate, BudgetLevel::kCrossLayer);
    change(config);
    auto engine = Engine::Create(config);
    EXPECT_FALSE(engine);
    return engine ? Error{} : engine.error();
  };
  EXPECT_EQ(error([](EngineConfig& c) { c.compression.ratio = 0.2f; }).param, "compression_ratio");
  EXPECT_EQ(error([](EngineConfig& c) { c.compression.ratio = -1; }).param, "compression_ratio");
  EXPECT_EQ(error([](EngineConfig& c) { c.compression.chunk = 18; }).param,
            "compression_chunk_size");
  EXPECT_EQ(error([](EngineConfig& c) { c.compression.window = 16; }).param,
            "compression_window_size");
  EXPECT_EQ(error([](EngineConfig& c) { c.compression.floor = 64; }).param,
            "compression_floor_min");
  auto profile = *LoadProfile(TinyProfile());
  profile.scorers.erase(Scorer::kTova);
  const std::string without_tova = testing::TempDir() + "profile_without_tova.safetensors";
  ASSERT_TRUE(SaveProfile(profile, without_tova));
  EXPECT_EQ(error([&](EngineConfig& c) {
              c.compression.scorer = Scorer::kTova;
              c.compression_profile = without_tova;
            }).param,
            "compression_scorer");
  for (const char* gates : {"", TANGRAM_SOURCE_DIR "/tests/unit/engine/compression_test.cc"}) {
    const Error fault = error([&](EngineConfig& c) {
      c.compression.scorer = Scorer::kFastKvzip;
      c.compression_gate = gates;
    });
    EXPECT_TRUE(fault.param == "compression_gate_path" || fault.kind == ErrorKind::kLoad) << gates;
  }
  EXPECT_EQ(error([](EngineConfig& c) {
              c.model_path = TANGRAM_SOURCE_DIR "/tests/unit/model/golden/llama31_bf16";
            }).param,
            "compression_profile");
  const Error missing = error([](EngineConfig& c) { c.compression_profile.clear(); });
  EXPECT_EQ(missing.param, "compression_profile");
  EXPECT_NE(missing.message.find("tangram calibrate"), std::string::npos) << missing.message;
  EXPECT_EQ(error([](EngineConfig& c) { c.compression_profile = "/nowhere"; }).kind,
            ErrorKind::kInvalidArgument);

  auto engine = Start(TinyCompressed(0.3f, Scorer::kGate, BudgetLevel::kCrossLayer));
  Request request = MixedRequest(*engine, 1);
  request.compression_ratio = 0.1f;
  const auto id = engine->Submit(request, [](const TokenEvent&) { FAIL(); });
  ASSERT_FALSE(id);
  EXPECT_EQ(id.error().param, "compression_ratio");
}

TEST(CompressionTest, ProfilesSurviveTheirFile) {
  const auto profile = LoadProfile(TinyProfile());
  ASSERT_TRUE(profile) << profile.error().message;
  EXPECT_EQ(profile->scorers.size(), AllScorers().size());
  EXPECT_EQ(profile->repeat_prompt, (std::vector<TokenId>{1, 2, 3}));
  const ScorerProfile& gate = profile->scorers.at(Scorer::kGate);
  const auto& shares = gate.demand.shares;
  const size_t heads = shares.size() / 2;
  for (size_t r = 0; r < 2; ++r) {
    const auto first = shares.begin() + static_cast<ptrdiff_t>(r * heads);
    const float mean = std::accumulate(first, first + static_cast<ptrdiff_t>(heads), 0.0f) /
                       static_cast<float>(heads);
    EXPECT_NEAR(mean, gate.demand.ratios[r], 0.02f);
  }
  EXPECT_EQ(gate.stability.size(), 4u);
  EXPECT_EQ(LoadProfile(TinyConfig().model_path + "/model.safetensors").error().kind,
            ErrorKind::kLoad);
}

}  // namespace
}  // namespace tangram
