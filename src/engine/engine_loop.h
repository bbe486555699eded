#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <thread>
#include <unordered_map>
#include <vector>

#include "engine/engine.h"
#include "engine/model_runner.h"
#include "engine/sampler.h"
#include "sched/scheduler.h"

namespace tangram {

// The engine's one thread and what it owns. Others leave requests and aborts in the inbox; the
// loop takes them between steps, so that the scheduler, the model and the sampler need no locks.
class EngineLoop final : public Engine {
 public:
  EngineLoop(EngineConfig config, EngineInfo info, std::unique_ptr<ModelRunner> runner,
             Scheduler scheduler);
  // Ends every request with kAbort.
  ~EngineLoop() override;

  const EngineInfo& info() const override { return info_; }
  bool dead() const override { return dead_; }
  Result<RequestId> Submit(Request request, TokenListener listener) override;
  void Abort(RequestId id) override;
  void ClearPrefixCache() override;
  EngineStats Stats() const override;

 private:
  using Clock = std::chrono::steady_clock;

  struct Submission {
    Request request;
    TokenListener listener;
    Clock::time_point submitted;
  };

  // What the loop itself remembers of a request between steps; the tokens are the scheduler's.
  struct LiveRequest {
    SamplingParams sampling;
    StopParams stop;
    TokenListener listener;
    TokenCounts counts;
    uint64_t seed;
    int prompt_size;
    Clock::time_point submitted;
    Clock::time_point first_scheduled{};
    bool started = false;    // was in a step
    bool has_token = false;  // its first token was told
  };

  Status CheckRequest(const Request& request) const;

  void Run();
  bool WaitForWork();
  void TakeInbox();
  void Admit(Submission submission);
  void Step();
  void SampleAndTell(const SchedulerOutput& output, const TensorView& logits);
  TokenEvent SampleOne(const ScheduledSequence& sequence, const TensorView& logits, size_t row);
  void FindBanned(const LiveRequest& live, std::span<const TokenId> generated);
  void Tell(RequestId id, const TokenEvent& event);
  void End(RequestId id, FinishReason reason);
  void EndAll(FinishReason reason);
  void Forget(RequestId id);
  void PublishStats();

  const EngineConfig config_;
  const EngineInfo info_;

  // The loop's thread alone.
  const std::unique_ptr<ModelRunner> runner_;
  Scheduler scheduler_;
  Sampler sampler_;
  std::unordered_map<RequestId, LiveRequest> live_;
  std::vector<TokenEvent> events_;  // of this step, one for each sampled token
  std::vector<TokenId> tokens_;
  std::vector<TokenId> banned_;    // from the token that is sampled now
  std::vector<RequestId> failed_;  // whose logits were not finite
  EngineStats totals_;

  // Shared, under mutex_.
  mutable std::mutex mutex_;
  std::condition_variable wake_;
  std::vector<Submission> inbox_;
  std::vector<RequestId> aborts_;
  RequestId next_id_ = 1;
  int num_live_ = 0;
  bool clear_cache_ = false;
  bool stopping_ = false;
  EngineStats stats_;

  std::atomic<bool> dead_ = false;
  std::thread thread_;  // last: it starts when the rest is there
};

}  // namespace tangram
