#include "engine/engine.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <latch>
#include <thread>

#include "support/engine_session.h"

namespace tangram {
namespace {

using namespace std::chrono_literals;

TEST(EngineTest, TokensDoNotDependOnLoadChunkingOrPreemption) {
  EngineConfig config = TinyConfig();
  config.enable_prefix_caching = false;
  const auto expected = RunOneByOne(*Start(config), 24);
  {
    auto engine = Start(config);
    EXPECT_EQ(RunTogether(*engine, 24), expected);
    EXPECT_EQ(engine->Stats().pages_held, 0);
  }
  config.max_num_batched_tokens = 7;
  EXPECT_EQ(RunTogether(*Start(config), 24), expected);
  config.max_num_batched_tokens = 32;
  config.enable_prefix_caching = true;
  config.num_pages_override = 5;  // 80 tokens for eight requests of up to 46
  auto engine = Start(config);
  EXPECT_EQ(RunTogether(*engine, 24), expected);
  EXPECT_EQ(RunTogether(*engine, 24), expected);  // again, on what the cache kept
  EXPECT_EQ(engine->Stats().pages_held, 0);
}

TEST(EngineTest, TheReferenceBackendGivesTheSameGreedyTokens) {
  EngineConfig config = TinyConfig();
  config.kv_cache_dtype = "f32";
  auto fast = Start(config);
  config.device = "reference";
  auto reference = Start(config);
  for (uint32_t i = 0; i < 8; ++i) {
    const auto request = MakeRequest(i, 12, 24, fast->info().vocab_size);
    EXPECT_EQ(RunAlone(*fast, request), RunAlone(*reference, request)) << i;
  }
}

TEST(EngineTest, ARepeatedPromptIsCached) {
  auto engine = Start(TinyConfig());
  const Request request = MakeRequest(1, 20, 4, engine->info().vocab_size);
  Collector first, second;
  ASSERT_TRUE(engine->Submit(request, first.Listener()));
  const auto tokens = first.Wait();
  EXPECT_EQ(first.cached(), 0);
  ASSERT_TRUE(engine->Submit(request, second.Listener()));
  EXPECT_EQ(second.Wait(), tokens);
  EXPECT_EQ(second.cached(), 19);  // all but the token whose logits are wanted
  EXPECT_EQ(engine->Stats().prefix_cache_hits, 19u);
}

TEST(EngineTest, StopsOnStopIdsAndLengths) {
  auto engine = Start(TinyConfig());
  Request request = MakeRequest(3, 9, 16, engine->info().vocab_size);
  const auto tokens = RunAlone(*engine, request);
  ASSERT_EQ(tokens.size(), 16u);

  const auto fourth = std::find(tokens.begin(), tokens.end(), tokens[3]);
  request.stop.stop_token_ids = {tokens[3]};
  Collector stopped;
  ASSERT_TRUE(engine->Submit(request, stopped.Listener()));
  EXPECT_EQ(stopped.Wait(), std::vector<TokenId>(tokens.begin(), fourth + 1));
  EXPECT_EQ(stopped.reason(), FinishReason::kStop);
  EXPECT_EQ(stopped.stop_token(), tokens[3]);

  request.stop.min_tokens = 10;
  Collector later;
  ASSERT_TRUE(engine->Submit(request, later.Listener()));
  const auto more = later.Wait();
  EXPECT_GE(more.size(), 10u);
  EXPECT_EQ(std::count(more.begin(), more.begin() + 10, tokens[3]), 0);
}

TEST(EngineTest, BadWordsAreNotGenerated) {
  auto engine = Start(TinyConfig());
  Request request = MakeRequest(3, 9, 16, engine->info().vocab_size);
  const auto tokens = RunAlone(*engine, request);
  request.sampling.bad_words = {{tokens[5]}, {tokens[0], tokens[1], tokens[2]}};
  const auto without = RunAlone(*engine, request);
  EXPECT_TRUE(std::equal(without.begin(), without.begin() + 2, tokens.begin()))
      << "of a word of three, two may come";
  EXPECT_NE(without[2], tokens[2]);
  EXPECT_EQ(std::ranges::count(without, tokens[5]), 0);
  // The prompt's end is not part of a word.
  request.sampling.bad_words = {{request.prompt.back(), tokens[0]}};
  EXPECT_EQ(RunAlone(*engine, request)[0], tokens[0]);
}

TEST(EngineTest, SamplingDefaultsOfTheModelAFileOrTheCommandLine) {
  const std::string folder = testing::TempDir();
  std::ofstream(folder + "/generation_config.json")
      << R"({"temperature": 0.5, "top_k": 7, "eos_token_id": [9]})";
  EngineConfig config = TinyConfig();
  const auto info = [&] { return Start(config)->info(); };
  EXPECT_FLOAT_EQ(info().default_sampling.temperature, 1.0f);
  config.generation_config = folder;
  EXPECT_FLOAT_EQ(info().default_sampling.temperature, 0.5f);
  EXPECT_EQ(std::ranges::count(info().eos_token_ids, 9), 1);
  config.override_generation_config = R"({"temperature": 0.25, "max_new_tokens": 40})";
  EXPECT_FLOAT_EQ(info().default_sampling.temperature, 0.25f);
  EXPECT_EQ(info().default_sampling.top_k, 7);
  EXPECT_EQ(info().default_max_tokens, 40);
  config.generation_config = "vllm";
  EXPECT_EQ(info().default_sampling.top_k, 0);
  for (const char* bad :
       {"{", "[]", R"({"temprature": 1})", R"({"top_p": 0})", R"({"top_k": "all"})"}) {
    config.override_generation_config = bad;
    auto engine = Engine::Create(config);
    ASSERT_FALSE(engine) << bad;
    EXPECT_EQ(engine.error().kind, ErrorKind::kInvalidArgument) << bad;
    EXPECT_EQ(engine.error().param, "override_generation_config");
  }
  config.override_generation_config.clear();
  config.generation_config = "/nowhere";
  EXPECT_EQ(Engine::Create(config).error().kind, ErrorKind::kLoad);
}

TEST(EngineTest, AbortEndsARequestAndFreesItsPages) {
  EngineConfig config = TinyConfig();
  config.enable_prefix_caching = false;
  auto engine = Start(config);
  Collector running, other;
  // The engine waits with the second token until the request is aborted: it cannot end before.
  std::latch aborted(1);
  int told = 0;
  const auto id = engine->Submit(MakeRequest(1, 8, 40, engine->info().vocab_size),
                                 [&, tell = running.Listener()](const TokenEvent& event) {
                                   tell(event);
                                   if (++told == 2) aborted.wait();
                                 });
  ASSERT_TRUE(id);
  ASSERT_TRUE(engine->Submit(MakeRequest(2, 8, 30, engine->info().vocab_size), other.Listener()));
  running.WaitForTokens(2);
  engine->Abort(*id);
  engine->Abort(*id + 1000);  // never was
  aborted.count_down();
  EXPECT_LT(running.Wait().size(), 40u);
  EXPECT_EQ(running.reason(), FinishReason::kAbort);
  EXPECT_EQ(other.Wait().size(), 30u);
  const auto patience = std::chrono::steady_clock::now() + 60s;
  while (engine->Stats().pages_held != 0 && std::chrono::steady_clock::now() < patience) {
    std::this_thread::yield();
  }
  EXPECT_EQ(engine->Stats().pages_held, 0);
}

TEST(EngineTest, RefusesWhatCanNeverRun) {
  auto engine = Start(TinyConfig());
  const auto refused = [&](const Request& request, std::string_view text) {
    const auto id = engine->Submit(request, [](const TokenEvent&) { FAIL(); });
    ASSERT_FALSE(id);
    EXPECT_EQ(id.error().kind, ErrorKind::kInvalidArgument);
    EXPECT_NE(id.error().message.find(text), std::string::npos) << id.error().message;
  };
  const int longest = engine->info().max_model_len;
  refused(MakeRequest(1, longest, 1, 10), "maximum context length is");
  refused(MakeRequest(1, 0, 1, 10), "empty");
  Request request = MakeRequest(1, 4, 1, 10);
  request.prompt[2] = engine->info().vocab_size;
  refused(request, "out of vocabulary");
}

TEST(EngineTest, AFullQueueIsUnavailable) {
  EngineConfig config = TinyConfig();
  config.max_num_seqs = 1;
  config.max_queued_requests = 2;
  std::vector<Collector> collectors(40);  // outlive the engine, which tells them of its end
  auto engine = Start(config);
  int refused = 0;
  for (Collector& c : collectors) {
    const auto id = engine->Submit(MakeRequest(1, 8, 50, engine->info().vocab_size), c.Listener());
    if (id) continue;
    EXPECT_EQ(id.error().kind, ErrorKind::kUnavailable);
    ++refused;
  }
  EXPECT_GT(refused, 0);
}

TEST(EngineTest, EndingTheEngineEndsItsRequests) {
  Collector collectors[20];
  {
    auto engine = Start(TinyConfig());
    for (Collector& c : collectors) {
      // Eight run at once, so that the last begin after a hundred steps of eight times 5 ms.
      ASSERT_TRUE(engine->Submit(MakeRequest(5, 8, 50, engine->info().vocab_size),
                                 [tell = c.Listener()](const TokenEvent& event) {
                                   tell(event);
                                   if (!event.finished) std::this_thread::sleep_for(5ms);
                                 }));
    }
    collectors[0].WaitForTokens(1);
  }
  for (Collector& c : collectors) {
    EXPECT_LT(c.Wait().size(), 50u);
    EXPECT_EQ(c.reason(), FinishReason::kAbort);
  }
}

TEST(EngineTest, SubmitsAndAbortsFromManyThreads) {
  auto engine = Start(TinyConfig());
  std::vector<std::thread> threads;
  for (uint32_t t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (uint32_t i = 0; i < 10; ++i) {
        Collector collector;
        const auto id = engine->Submit(MakeRequest(t * 100 + i, 10, 12, engine->info().vocab_size),
                                       collector.Listener());
        ASSERT_TRUE(id);
        if (i % 3 == 0) engine->Abort(*id);
        collector.Wait();
        engine->Stats();
      }
    });
  }
  for (std::thread& t : threads) t.join();
  EXPECT_EQ(engine->Stats().num_running, 0);
}

TEST(EngineTest, BadConfigsAreRefused) {
  const auto error = [](auto change) {
    EngineConfig config = TinyConfig();
    change(config);
    auto engine = Engine::Create(config);
    EXPECT_FALSE(engine);
    return engine ? Error{} : engine.error();
  };
  EXPECT_EQ(error([](EngineConfig& c) { c.model_path = "/nowhere"; }).kind, ErrorKind::kLoad);
  EXPECT_EQ(error([](EngineConfig& c) { c.page_group_size = 3; }).kind,
            ErrorKind::kInvalidArgument);
  EXPECT_EQ(error([](EngineConfig& c) { c.kv_cache_dtype = "int3"; }).param, "kv_cache_dtype");
  EXPECT_EQ(error([](EngineConfig& c) { c.max_model_len = 1 << 20; }).param, "max_model_len");
  EXPECT_EQ(error([](EngineConfig& c) { c.max_num_seqs = -1; }).param, "max_num_seqs");
  EXPECT_EQ(error([](EngineConfig& c) { c.num_pages_override = 2; }).kind, ErrorKind::kOutOfMemory);
}

}  // namespace
}  // namespace tangram
