#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <map>
#include <mutex>
#include <thread>
#include <vector>

#include "engine/engine.h"

namespace tangram::testing {

// An engine without a model: a request's answer is its prompt, again and again, one token a step;
// an EOS or a stop id in it ends the request as in the real one. Steps take `step_time`.
class FakeEngine : public Engine {
 public:
  struct Options {
    int vocab_size = 259;
    int max_model_len = 4096;
    std::vector<TokenId> eos_token_ids = {258};
    bool priority_policy = false;
    int max_running = 64;
    int max_queued = 1024;
    std::chrono::microseconds step_time{0};
    std::chrono::microseconds prefill_time{0};  // of each request
  };

  explicit FakeEngine(Options options);
  FakeEngine() : FakeEngine(Options{}) {}
  ~FakeEngine() override;

  const EngineInfo& info() const override { return info_; }
  Result<RequestId> Submit(Request request, TokenListener listener) override;
  void Abort(RequestId id) override;
  EngineStats Stats() const override;
  void ClearPrefixCache() override { ++num_clears_; }
  bool dead() const override { return dead_; }

  // Ends every request with kError and dies, as after an internal fault.
  void Die();
  std::vector<Request> submitted() const;         // all so far
  int num_clears() const { return num_clears_; }  // of the prefix cache

 private:
  struct Live {
    Request request;
    TokenListener listener;
    int num_generated = 0;
    std::chrono::steady_clock::time_point submitted, started;
  };

  void Run();
  void Step(Live* live, std::vector<RequestId>* finished);
  void End(FinishReason reason, const Live& live);

  const Options options_;
  EngineInfo info_;
  mutable std::mutex mutex_;
  std::condition_variable wake_;
  std::map<RequestId, Live> live_;
  std::vector<RequestId> aborts_;
  std::vector<Request> submitted_;
  RequestId next_id_ = 1;
  uint64_t prompt_tokens_ = 0, generation_tokens_ = 0;
  StepHistogram<StepTokensBounds> step_tokens_;
  bool stopping_ = false;
  std::atomic<bool> dead_ = false;
  std::atomic<int> num_clears_ = 0;
  std::thread thread_;
};

}  // namespace tangram::testing
