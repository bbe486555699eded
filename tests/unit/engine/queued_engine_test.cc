// The engine with two steps in flight says, to the bit, what it says with one.
#include <gtest/gtest.h>

#include <cstdlib>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>

#include "random_load.h"
#include "support/compressed_session.h"
#include "support/queued_session.h"

namespace tangram {
namespace {

// Requests of a load; fewer under sanitizers, which scripts/test asks for.
int LoadSize() {
  const char* fewer = std::getenv("TANGRAM_PROPERTY_STEPS");
  return (fewer != nullptr ? std::atoi(fewer) : 20000) / 50;
}

constexpr int kMaxModelLen = 64;  // the tiny model's

EngineConfig PlainConfig() {
  EngineConfig config = TinyConfig();
  config.page_size = kPageSize;
  return config;
}

// No page is held or kept any longer.
void ExpectAllFree(Engine& engine) {
  engine.ClearPrefixCache();
  for (int i = 0; i < 5000; ++i) {
    const EngineStats stats = engine.Stats();
    if (stats.pages_held + stats.pages_cached + stats.num_running + stats.num_waiting == 0) return;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  const EngineStats stats = engine.Stats();
  FAIL() << stats.pages_held << " pages are held, " << stats.pages_cached << " cached, "
         << stats.num_running << " requests run, " << stats.num_waiting << " wait";
}

class QueuedEngineTest : public testing::TestWithParam<std::optional<Scorer>> {
 protected:
  static EngineConfig Config() {
    EngineConfig config = PlainConfig();
    if (const auto scorer = GetParam()) {
      config = TinyCompressed(0.5f, *scorer, BudgetLevel::kCrossLayer);
    }
    config.max_model_len = kMaxModelLen;
    return config;
  }
};

TEST_P(QueuedEngineTest, ALoadWithAbortsGetsTheTokensOfOneStepAtATime) {
  EngineConfig config = Config();
  config.enable_prefix_caching = false;
  const auto seed = static_cast<uint32_t>(GetParam() ? int(*GetParam()) + 1 : 0);
  std::vector<Ask> asks;
  std::vector<Outcome> expected;
  {
    auto plain = Start(config);
    asks = RandomAsks(plain->info(), seed, LoadSize(), {});
    asks = RandomAsks(plain->info(), seed, LoadSize(), RunPatiently(*plain, asks));
    expected = RunPatiently(*plain, asks);
  }
  config.enable_prefix_caching = true;
  {
    auto roomy = StartQueued(config).engine;
    EXPECT_GT(RunImpatiently(*roomy, asks, expected), LoadSize() / 40);
    EXPECT_GT(roomy->Stats().prefix_cache_hits, 0u);
    ExpectAllFree(*roomy);
  }
  config.num_pages_override = 17;  // 68 tokens, of requests of up to 64
  auto narrow = StartQueued(config).engine;
  RunImpatiently(*narrow, asks, expected);
  EXPECT_GT(narrow->Stats().num_preemptions, 0u);
  ExpectAllFree(*narrow);
}

std::string NameOf(const testing::TestParamInfo<std::optional<Scorer>>& info) {
  std::string name(info.param ? ScorerName(*info.param) : "plain");
  std::erase(name, '-');
  std::erase(name, '_');
  return name;
}

INSTANTIATE_TEST_SUITE_P(Scorers, QueuedEngineTest,
                         testing::Values(std::nullopt, Scorer::kGate, Scorer::kFastKvzip,
                                         Scorer::kReconstruction, Scorer::kKeyDiff,
                                         Scorer::kExpectedAttention, Scorer::kSnapKv, Scorer::kTova,
                                         Scorer::kStreamingLlm),
                         NameOf);

TEST(QueuedEngine, EndsWhileStepsAreInFlight) {
  for (int i = 0; i < 20; ++i) {
    EngineConfig config = PlainConfig();
    config.max_model_len = kMaxModelLen;
    std::vector<Collector> collectors(4);
    auto engine = StartQueued(config).engine;
    for (Collector& c : collectors) {
      ASSERT_TRUE(engine->Submit(MakeRequest(5, 8, 50, engine->info().vocab_size), c.Listener()));
    }
    collectors[0].WaitForTokens(static_cast<size_t>(i));
    engine.reset();
    for (Collector& c : collectors) {
      if (c.Wait().size() < 50) {
        EXPECT_EQ(c.reason(), FinishReason::kAbort);
      }
    }
  }
}

TEST(QueuedEngine, WhatHasEndedDrawsNoMore) {
  EngineConfig config = PlainConfig();
  config.max_model_len = kMaxModelLen;
  auto [engine, backend] = StartQueued(config);
  Request request = MakeRequest(3, 9, 16, engine->info().vocab_size);
  const std::vector<TokenId> tokens = RunAlone(*engine, request);
  EXPECT_EQ(backend->num_rows_drawn(), 16);
  request.stop.stop_token_ids = {tokens[3]};
  const auto before = backend->num_rows_drawn();
  const auto stopped = RunAlone(*engine, request);
  EXPECT_LT(stopped.size(), 16u);
  EXPECT_EQ(backend->num_rows_drawn() - before, std::ssize(stopped));
}

TEST(QueuedEngine, WhatTheDeviceThrowsEndsAllRequests) {
  EngineConfig config = PlainConfig();
  config.max_model_len = kMaxModelLen;
  std::vector<Collector> collectors(4);
  auto [engine, backend] = StartQueued(config);
  for (Collector& c : collectors) {
    ASSERT_TRUE(engine->Submit(MakeRequest(5, 8, 50, engine->info().vocab_size), c.Listener()));
  }
  collectors[0].WaitForTokens(3);
  backend->Queue([] { throw std::runtime_error("the device is gone"); });
  for (Collector& c : collectors) {
    c.Wait();
    EXPECT_EQ(c.reason(), FinishReason::kError);
  }
  EXPECT_TRUE(engine->dead());
}

}  // namespace
}  // namespace tangram
