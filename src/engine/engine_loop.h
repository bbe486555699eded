#pragma once

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <unordered_map>
#include <vector>

#include "engine/engine.h"
#include "engine/live_request.h"
#include "engine/model_runner.h"
#include "sched/scheduler.h"

namespace tangram {

// The engine's one thread and what it owns. Others leave requests and aborts in the inbox; the
// loop takes them between steps, so that the scheduler, the model and the backend need no locks.
//
// Where the backend queues steps, the next one is scheduled and queued before the tokens of the
// last are waited for, so that the device never waits for the host (docs/design/step.md).
class EngineLoop final : public Engine {
 public:
  EngineLoop(EngineConfig config, EngineInfo info, std::unique_ptr<ModelRunner> runner,
             std::unique_ptr<Scheduler> scheduler);
  // Ends every request with kAbort.
  ~EngineLoop() override;

  const EngineInfo& info() const override { return info_; }
  bool dead() const override { return dead_; }
  Result<RequestId> Submit(Request request, TokenListener listener) override;
  void Abort(RequestId id) override;
  void ClearPrefixCache() override;
  EngineStats Stats() const override;

 private:
  using Clock = LiveRequest::Clock;

  struct Submission {
    Request request;
    TokenListener listener;
    Clock::time_point submitted;
  };

  // A step whose tokens are not known yet.
  struct StepInFlight {
    struct Draw {
      RequestId id;
      int slot, retention, position;  // of the token that is drawn
      int row = -1;                   // of the sampling; -1: its request has ended since
    };
    std::vector<Draw> draws;  // of the sequences with needs_sampling
    TensorView logits;
    ops::Ticket ticket = 0;
  };

  Status CheckRequest(const Request& request) const;

  void Run();
  bool WaitForWork();
  void TakeInbox();
  void Admit(Submission submission);
  void Step();
  std::optional<StepInFlight> Launch();
  void QueueSampling(StepInFlight& step);
  void Resolve(const StepInFlight& step);
  TokenEvent EventOf(const StepInFlight::Draw& draw, const StepResult& result,
                     const ops::SamplingOutput& drawn) const;
  void EmitAll();
  void End(RequestId id, FinishReason reason);
  void EndAll(FinishReason reason);
  void Erase(RequestId id);
  void PublishStats();

  const EngineConfig config_;
  const EngineInfo info_;

  // The loop's thread alone.
  const std::unique_ptr<ModelRunner> runner_;
  const std::unique_ptr<Scheduler> scheduler_;
  std::unordered_map<RequestId, LiveRequest> live_;
  std::optional<StepInFlight> in_flight_;
  ops::SamplingInput sampling_;
  std::vector<TokenId> drawn_;
  std::vector<std::pair<RequestId, TokenEvent>> events_;  // to be told
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
