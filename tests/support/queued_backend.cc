#include "support/queued_backend.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <set>
#include <utility>
#include <vector>

#include "base/check.h"

namespace tangram {
namespace {

constexpr int32_t kGarbage = -559038737;

// Where an op's parameters name the step; null if they do not.
template <class Params>
const ops::Step** StepOf(Params& params) {
  if constexpr (requires { params.at.step; }) {
    return &params.at.step;
  } else if constexpr (requires { params.step.at.step; }) {
    return &params.step.at.step;
  } else if constexpr (requires { params.step; }) {
    return &params.step;
  } else {
    return nullptr;
  }
}

template <class T>
void Overwrite(std::vector<T>& values) {
  std::memset(static_cast<void*>(values.data()), 0xa5, values.size() * sizeof(T));
}

void Overwrite(ops::StepInput& input) {
  Overwrite(input.tokens);
  Overwrite(input.positions);
  Overwrite(input.slots);
  Overwrite(input.retentions);
  input.num_decodes = kGarbage;
  Overwrite(input.logit_rows);
  Overwrite(input.page_writes);
  Overwrite(input.page_copies);
  Overwrite(input.rounds);
  Overwrite(input.spans);
  Overwrite(input.boundaries);
}

// They are made in any order.
void CheckWrites(const ops::StepInput& input) {
  std::set<int32_t> places;
  for (const ops::PageWrite& write : input.page_writes) {
    TANGRAM_CHECK(places.insert(write.place).second, "place {} is written twice", write.place);
  }
}

}  // namespace

QueuedBackend::QueuedBackend(std::unique_ptr<ops::Backend> wrapped)
    : wrapped_(std::move(wrapped)), worker_([this] { Work(); }) {}

QueuedBackend::~QueuedBackend() {
  {
    std::lock_guard lock(mutex_);
    TANGRAM_CHECK(queue_.empty(), "{} calls are queued at the end", queue_.size());
    stopping_ = true;
  }
  changed_.notify_all();
  worker_.join();
}

void QueuedBackend::Work() {
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [this] { return stopping_ || !queue_.empty(); });
    if (queue_.empty()) return;
    const std::function<void()> call = std::move(queue_.front());
    queue_.pop_front();
    working_ = true;
    lock.unlock();
    std::exception_ptr error;
    try {
      call();
    } catch (...) {
      error = std::current_exception();
    }
    lock.lock();
    working_ = false;
    if (error) {
      error_ = error;
      queue_.clear();
    }
    changed_.notify_all();
  }
}

void QueuedBackend::Queue(std::function<void()> call) {
  {
    std::lock_guard lock(mutex_);
    if (error_) return;
    queue_.push_back(std::move(call));
  }
  changed_.notify_all();
}

void QueuedBackend::Drain() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return idle(); });
}

template <class Params>
void QueuedBackend::QueueOp(const Params& params, void (ops::Backend::*op)(const Params&)) {
  Params own = params;
  if (const ops::Step** step = StepOf(own)) {
    TANGRAM_CHECK(*step == step_, "an op of a step that is not the last");
    *step = nullptr;
  }
  Queue([this, own, op]() mutable {
    if (const ops::Step** step = StepOf(own)) *step = wrapped_step_;
    (*wrapped_.*op)(own);
  });
}

void QueuedBackend::Embedding(const ops::EmbeddingParams& p) { QueueOp(p, &Backend::Embedding); }
void QueuedBackend::RmsNorm(const ops::RmsNormParams& p) { QueueOp(p, &Backend::RmsNorm); }
void QueuedBackend::MatMul(const ops::MatMulParams& p) { QueueOp(p, &Backend::MatMul); }
void QueuedBackend::SiluMul(const ops::SiluMulParams& p) { QueueOp(p, &Backend::SiluMul); }
void QueuedBackend::Append(const ops::AppendParams& p) { QueueOp(p, &Backend::Append); }
void QueuedBackend::Attention(const ops::AttentionParams& p) { QueueOp(p, &Backend::Attention); }
void QueuedBackend::GatherRows(const ops::GatherRowsParams& p) { QueueOp(p, &Backend::GatherRows); }
void QueuedBackend::FastKvzip(const ops::FastKvzipParams& p) { QueueOp(p, &Backend::FastKvzip); }
void QueuedBackend::AppendScores(const ops::AppendScoresParams& p) {
  QueueOp(p, &Backend::AppendScores);
}
void QueuedBackend::ObserveQueries(const ops::ObserveQueriesParams& p) {
  QueueOp(p, &Backend::ObserveQueries);
}
void QueuedBackend::Score(const ops::ScoreParams& p) { QueueOp(p, &Backend::Score); }
void QueuedBackend::Compact(const ops::CompactParams& p) { QueueOp(p, &Backend::Compact); }
void QueuedBackend::MaxAttention(const ops::MaxAttentionParams& p) {
  QueueOp(p, &Backend::MaxAttention);
}
void QueuedBackend::SumAttention(const ops::SumAttentionParams& p) {
  QueueOp(p, &Backend::SumAttention);
}

Buffer QueuedBackend::Allocate(size_t bytes) {
  const Buffer wrapped = wrapped_->Allocate(bytes);
  if (wrapped.data() == nullptr) return {};
  const auto free = [this, wrapped](void*) {
    std::unique_lock lock(mutex_);
    TANGRAM_CHECK(queue_.empty(), "memory is freed while {} calls are queued", queue_.size());
    changed_.wait(lock, [this] { return idle(); });  // behind the last one's result
  };
  return Buffer(std::shared_ptr<void>(wrapped.data(), free), bytes);
}

TensorView QueuedBackend::UploadRows(std::span<const TensorView> parts) {
  Drain();
  return wrapped_->UploadRows(parts);
}

void QueuedBackend::Write(void* to, const void* from, size_t bytes) {
  const auto* first = static_cast<const std::byte*>(from);
  Queue([this, to, copy = std::vector<std::byte>(first, first + bytes)] {
    wrapped_->Write(to, copy.data(), copy.size());
  });
}

void QueuedBackend::Read(void* to, const void* from, size_t bytes) {
  Drain();
  std::lock_guard lock(mutex_);
  if (error_) std::rethrow_exception(error_);
  wrapped_->Read(to, from, bytes);
}

const ops::Step& QueuedBackend::Begin(const ops::StepInput& input, const ops::KvView& kv,
                                      float* pool_scores) {
  CheckWrites(input);
  const size_t turn = num_steps_++ % kStepsInFlight;
  Staging& staging = staging_[turn];
  {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return error_ || !staging.in_use; });
    if (error_) std::rethrow_exception(error_);
    staging.in_use = true;
  }
  staging.input = input;
  Queue([this, &staging, kv, pool_scores] { TakeUp(staging, kv, pool_scores); });
  inputs_[turn] = input;
  ops::Step& step = steps_[turn];
  step.kv = kv;
  step.num_tokens = static_cast<int>(input.tokens.size());
  step.num_logit_rows = static_cast<int>(input.logit_rows.size());
  step.input = &inputs_[turn];
  return *(step_ = &step);
}

void QueuedBackend::TakeUp(Staging& staging, const ops::KvView& kv, float* pool_scores) {
  input_ = staging.input;
  Overwrite(staging.input);
  {
    std::lock_guard lock(mutex_);
    staging.in_use = false;
  }
  changed_.notify_all();
  wrapped_step_ = &wrapped_->Begin(input_, kv, pool_scores);
}

ops::Ticket QueuedBackend::Sample(const TensorView& logits, const ops::SamplingInput& input) {
  const ops::Ticket ticket = ++last_ticket_;
  num_rows_drawn_ += std::ssize(input.rows);
  Drawn& drawn = drawn_[ticket % kStepsInFlight];
  {
    std::lock_guard lock(mutex_);
    if (error_) return ticket;
    TANGRAM_CHECK(drawn.ticket == 0 || drawn.there, "more steps in flight than {}", kStepsInFlight);
    drawn.ticket = ticket;
    drawn.there = false;
  }
  Overwrite(drawn.output.tokens);
  Overwrite(drawn.output.logprobs);
  for (auto& top : drawn.output.top) Overwrite(top);
  Queue([this, logits, input, &drawn] { Draw(logits, input, drawn); });
  return ticket;
}

void QueuedBackend::Draw(const TensorView& logits, const ops::SamplingInput& input, Drawn& drawn) {
  drawn.output = wrapped_->Wait(wrapped_->Sample(logits, input));
  std::fill_n(logits.as<float>(), logits.shape.count(), std::numeric_limits<float>::quiet_NaN());
  {
    std::lock_guard lock(mutex_);
    drawn.there = true;
  }
  changed_.notify_all();
}

const ops::SamplingOutput& QueuedBackend::Wait(ops::Ticket ticket) {
  Drawn& drawn = drawn_[ticket % kStepsInFlight];
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return error_ || (drawn.ticket == ticket && drawn.there); });
  if (error_) std::rethrow_exception(error_);
  return drawn.output;
}

}  // namespace tangram
