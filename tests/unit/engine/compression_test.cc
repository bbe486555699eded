// Compression on a tiny model: what is generated, to the bit of its probabilities, hangs on the
// tokens alone, and rows are as long as the table says.

#include <gtest/gtest.h>

#include <numeric>

#include "support/compressed_session.h"

namespace tangram {
namespace {

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
  auto roomy = Start(config);
  EXPECT_EQ(RunTogether(*roomy, 20), expected);
  EXPECT_EQ(RunTogether(*roomy, 20), expected) << "on what the cache kept";
  EXPECT_GT(roomy->Stats().prefix_cache_hits, 0u);
  config.num_pages_override = 16;  // 64 whole tokens for requests of up to 62
  auto narrow = Start(config);
  EXPECT_EQ(RunTogether(*narrow, 20), expected);
  EXPECT_GT(narrow->Stats().num_preemptions, 0u);
  EXPECT_EQ(narrow->Stats().pages_held, 0);
}

// What the cache has of one ratio serves another only as far as they are the same.
TEST_P(CompressedEngineTest, EachRequestMayHaveItsOwnRatio) {
  EngineConfig config = Config();
  config.compression.ratio = 1;
  config.compression.by_request = true;
  auto engine = Start(config);
  config.enable_prefix_caching = false;
  auto plain = Start(config);
  int differing = 0;
  for (int i = 0; i < 12; ++i) {
    Request request = MixedRequest(*engine, i);
    EXPECT_EQ(request.compression_ratio, 1);
    std::vector<std::vector<TokenId>> answers;
    for (const float ratio : {1.0f, 0.3f, 0.5f, 1.0f, 0.3f}) {
      request.compression_ratio = ratio;
      answers.push_back(RunAlone(*plain, request));
      EXPECT_EQ(RunAlone(*engine, request), answers.back()) << i << " at " << ratio;
    }
    differing += answers[0] != answers[1] ? 1 : 0;
  }
  EXPECT_GT(differing, 0) << "compression changes nothing: is it on?";
  EXPECT_GT(engine->Stats().prefix_cache_hits, 0u);
}

// Going apart inside a chunk, also where its last queries are: its tokens lie in shared pages, but
// each sequence scores them by what came after. The common tokens come first and leave their state.
TEST_P(CompressedEngineTest, ACommonBeginningIsScoredByEachForItself) {
  EngineConfig config = Config();
  config.max_num_batched_tokens = 128;  // all of them cross the boundary in one step
  EngineConfig without_cache = config;
  without_cache.enable_prefix_caching = false;
  auto plain = Start(without_cache), engine = Start(config);
  const int vocab = engine->info().vocab_size;
  for (const int common : {kChunk + 5, 2 * kChunk - 2, 2 * kChunk - 1, 2 * kChunk}) {
    for (uint32_t seed = 0; seed < 4; ++seed) {
      Request first = MakeRequest(500 + seed, common, 1, vocab);
      first.compression_ratio = config.compression.ratio;
      RunAlone(*engine, first);
      std::vector<Request> requests;
      for (uint32_t i = 0; i < 6; ++i) {
        Request& request = requests.emplace_back(MakeRequest(600 + 10 * seed + i, 12, 16, vocab));
        request.prompt.insert(request.prompt.begin(), first.prompt.begin(), first.prompt.end());
        request.compression_ratio = config.compression.ratio;
      }
      std::vector<Collector> collectors(requests.size());
      for (size_t i = 0; i < requests.size(); ++i) {
        ASSERT_TRUE(engine->Submit(requests[i], collectors[i].Listener()));
      }
      for (size_t i = 0; i < requests.size(); ++i) {
        EXPECT_EQ(collectors[i].Wait(), RunAlone(*plain, requests[i]))
            << common << " common tokens, seed " << seed << " request " << i;
      }
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
                    Setting{Scorer::kSnapKv, BudgetLevel::kCrossLayer, 0.5f},
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
  EXPECT_EQ(plain->Stats().compression_seconds.sum, 0);
  EXPECT_GT(compressed->Stats().compression_seconds.sum, 0);
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
    EXPECT_TRUE(fault.param == "compression_gate_path" || fault.kind == ErrorKind::kUnsupported)
        << gates;
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
  EXPECT_NE(id.error().message.find("from 0.30 to 1"), std::string::npos) << id.error().message;
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
            ErrorKind::kUnsupported);
}

}  // namespace
}  // namespace tangram
