#pragma once

#include <array>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <thread>

#include "ops/backend.h"

namespace tangram {

// Another backend behind a queue: calls return at once, and one thread makes them in order, as a
// device does. It is as strict as a device may be: what was handed over is copied, and what may no
// longer be read is overwritten, so that whoever relies on it shows.
class QueuedBackend final : public ops::Backend {
 public:
  static constexpr int kStepsInFlight = 2;

  // `wrapped` computes when it is called.
  explicit QueuedBackend(std::unique_ptr<ops::Backend> wrapped);
  // Nothing is queued any more.
  ~QueuedBackend() override;

  DType activation_dtype() const override { return wrapped_->activation_dtype(); }
  bool transposed_keys() const override { return wrapped_->transposed_keys(); }
  ops::Limits limits() const override { return wrapped_->limits(); }
  int steps_in_flight() const override { return kStepsInFlight; }
  ops::BackendMemory memory() const override { return wrapped_->memory(); }

  // Aborts with a message if the memory is freed while calls are queued.
  Buffer Allocate(size_t bytes) override;
  TensorView UploadRows(std::span<const TensorView> parts) override;
  void Write(void* to, const void* from, size_t bytes) override;
  void Read(void* to, const void* from, size_t bytes) override;

  // The step's `tokens` are null: nobody but the ops reads them.
  const ops::Step& Begin(const ops::StepInput& input, const ops::KvView& kv,
                         float* pool_scores) override;
  void Run(const ops::Step&, const std::function<void()>& forward) override { forward(); }
  void Embedding(const ops::EmbeddingParams&) override;
  void RmsNorm(const ops::RmsNormParams&) override;
  void MatMul(const ops::MatMulParams&) override;
  void SiluMul(const ops::SiluMulParams&) override;
  void Append(const ops::AppendParams&) override;
  void Attention(const ops::AttentionParams&) override;
  void GatherRows(const ops::GatherRowsParams&) override;
  void FastKvzip(const ops::FastKvzipParams&) override;
  void AppendScores(const ops::AppendScoresParams&) override;
  size_t QueryStateBytes(ops::ScoreMethod method, const ops::QueryScoring& queries, int window,
                         const ops::QueryStateShape& shape) const override {
    return wrapped_->QueryStateBytes(method, queries, window, shape);
  }
  void ObserveQueries(const ops::ObserveQueriesParams&) override;
  void Score(const ops::ScoreParams&) override;
  void Compact(const ops::CompactParams&) override;
  void MaxAttention(const ops::MaxAttentionParams&) override;
  void SumAttention(const ops::SumAttentionParams&) override;

  // The logits are NaN when their tokens are drawn.
  ops::Ticket Sample(const TensorView& logits, const ops::SamplingInput& input) override;
  // Throws what a queued call threw; all calls behind that one are dropped.
  const ops::SamplingOutput& Wait(ops::Ticket ticket) override;

  // Runs among the queued calls.
  void Queue(std::function<void()> call);
  // Until all queued calls are made.
  void Drain();
  // Of all calls of Sample.
  int64_t num_rows_drawn() const { return num_rows_drawn_; }

 private:
  struct Staging {
    ops::StepInput input;
    bool in_use = false;  // under mutex_: not taken up yet
  };
  struct Drawn {
    ops::SamplingOutput output;
    ops::Ticket ticket = 0;
    bool there = false;  // under mutex_
  };

  // Queues `op` with the wrapped backend's step in place of the one that was given out.
  template <class Params>
  void QueueOp(const Params& params, void (ops::Backend::*op)(const Params&));
  void Work();
  void TakeUp(Staging& staging, const ops::KvView& kv, float* pool_scores);
  void Draw(const TensorView& logits, const ops::SamplingInput& input, Drawn& drawn);
  bool idle() const { return queue_.empty() && !working_; }

  const std::unique_ptr<ops::Backend> wrapped_;
  // The caller's.
  std::array<ops::Step, kStepsInFlight> steps_;  // given out, by turns
  std::array<ops::StepInput, kStepsInFlight> inputs_;
  const ops::Step* step_ = nullptr;  // the last of them
  uint64_t num_steps_ = 0;
  ops::Ticket last_ticket_ = 0;
  std::atomic<int64_t> num_rows_drawn_ = 0;
  // Handed over.
  std::array<Staging, kStepsInFlight> staging_;
  std::array<Drawn, kStepsInFlight> drawn_;
  // The worker's.
  ops::StepInput input_;
  const ops::Step* wrapped_step_ = nullptr;

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> queue_;
  std::exception_ptr error_;
  bool working_ = false;  // on a call that it took from the queue
  bool stopping_ = false;
  std::thread worker_;  // last: it starts when the rest is there
};

}  // namespace tangram
