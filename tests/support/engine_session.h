#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <random>
#include <utility>
#include <vector>

#include "engine/engine.h"

// What tests of the engine share: a tiny model, requests, and someone who waits for their ends.
namespace tangram {

// Tokens with their log probabilities, to the bit: attention that read anything else shows there,
// whether or not another token comes of it.
using Answer = std::vector<std::pair<TokenId, float>>;

// Collects a request's events, from the engine's thread, for a test that waits.
class Collector {
 public:
  TokenListener Listener() {
    return [this](const TokenEvent& event) {
      std::lock_guard lock(mutex_);
      EXPECT_FALSE(finished_) << "an event after the last one";
      if (event.token >= 0) tokens_.push_back(event.token);
      if (event.token >= 0) answer_.emplace_back(event.token, event.logprob.logprob);
      if (tokens_.size() == 1) cached_ = event.num_cached_tokens;
      finished_ = event.finished;
      last_ = event;
      changed_.notify_all();
    };
  }
  // The tokens, once the request has ended.
  std::vector<TokenId> Wait() {
    std::unique_lock lock(mutex_);
    EXPECT_TRUE(changed_.wait_for(lock, std::chrono::seconds(60), [this] { return finished_; }))
        << "no end in 60 s";
    return tokens_;
  }
  Answer WaitForAnswer() {
    Wait();
    return answer_;
  }
  void WaitForTokens(size_t count) {
    std::unique_lock lock(mutex_);
    EXPECT_TRUE(
        changed_.wait_for(lock, std::chrono::seconds(60), [&] { return tokens_.size() >= count; }));
  }
  FinishReason reason() const { return last_.reason; }
  TokenId stop_token() const { return last_.stop_token; }
  int cached() const { return cached_; }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<TokenId> tokens_;
  Answer answer_;
  bool finished_ = false;
  int cached_ = 0;
  TokenEvent last_;
};

inline EngineConfig TinyConfig() {
  EngineConfig config;
  config.model_path = TANGRAM_SOURCE_DIR "/tests/unit/model/golden/qwen3_tied_bf16";
  config.kv_cache_memory_bytes = 1 << 20;
  config.max_num_seqs = 8;
  config.max_num_batched_tokens = 32;
  config.num_threads = 2;
  return config;
}

inline std::unique_ptr<Engine> Start(const EngineConfig& config) {
  auto engine = Engine::Create(config);
  EXPECT_TRUE(engine) << engine.error().message;
  return std::move(*engine);
}

inline Request MakeRequest(uint32_t seed, int prompt_size, int max_tokens, int vocab_size) {
  std::mt19937 random(seed);
  Request request;
  for (int i = 0; i < prompt_size; ++i) {
    request.prompt.push_back(static_cast<TokenId>(random() % static_cast<uint32_t>(vocab_size)));
  }
  request.sampling.temperature = 0;
  request.stop.max_tokens = max_tokens;
  request.stop.ignore_eos = true;
  return request;
}

// Request `i` of a mixed load: several lengths, every other one sampled, at the engine's own ratio.
inline Request MixedRequest(const Engine& engine, int i) {
  const EngineInfo& info = engine.info();
  Request request = MakeRequest(static_cast<uint32_t>(i), 3 + i * 7 % 37, 24, info.vocab_size);
  request.sampling.temperature = i % 2 == 0 ? 0.0f : 0.9f;
  request.sampling.seed = 100 + i;
  request.sampling.num_logprobs = 0;
  request.compression_ratio = info.compression.ratio;
  return request;
}

inline std::vector<TokenId> RunAlone(Engine& engine, Request request) {
  Collector collector;
  const auto id = engine.Submit(std::move(request), collector.Listener());
  EXPECT_TRUE(id) << id.error().message;
  return collector.Wait();
}

// Submits `count` requests at once and returns the answers to each.
inline std::vector<Answer> RunTogether(Engine& engine, int count) {
  std::vector<Collector> collectors(static_cast<size_t>(count));
  for (int i = 0; i < count; ++i) {
    Request request = MixedRequest(engine, i);
    EXPECT_TRUE(engine.Submit(std::move(request), collectors[static_cast<size_t>(i)].Listener()));
  }
  std::vector<Answer> answers;
  for (Collector& c : collectors) answers.push_back(c.WaitForAnswer());
  return answers;
}

inline std::vector<Answer> RunOneByOne(Engine& engine, int count) {
  std::vector<Answer> answers;
  for (int i = 0; i < count; ++i) {
    Collector collector;
    EXPECT_TRUE(engine.Submit(MixedRequest(engine, i), collector.Listener()));
    answers.push_back(collector.WaitForAnswer());
  }
  return answers;
}

}  // namespace tangram
