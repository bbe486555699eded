#include "engine/engine_loop.h"

#include <algorithm>
#include <exception>
#include <utility>

#include "base/log.h"

namespace tangram {
namespace {

double SecondsBetween(std::chrono::steady_clock::time_point from,
                      std::chrono::steady_clock::time_point to) {
  return std::chrono::duration<double>(to - from).count();
}

}  // namespace

EngineLoop::EngineLoop(EngineConfig config, EngineInfo info, std::unique_ptr<ModelRunner> runner,
                       std::unique_ptr<Scheduler> scheduler)
    : config_(std::move(config)),
      info_(std::move(info)),
      runner_(std::move(runner)),
      scheduler_(std::move(scheduler)),
      thread_([this] { Run(); }) {}

EngineLoop::~EngineLoop() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_one();
  thread_.join();
}

Result<RequestId> EngineLoop::Submit(Request request, TokenListener listener) {
  TANGRAM_RETURN_IF_ERROR(CheckRequest(request));
  std::lock_guard lock(mutex_);
  if (stopping_ || dead_) {
    return MakeError(ErrorKind::kUnavailable, "the engine is stopping");
  }
  if (num_live_ >= config_.max_num_seqs + config_.max_queued_requests) {
    return MakeError(
        ErrorKind::kUnavailable,
        fmt::format("the queue is full: {} requests are running or waiting", num_live_));
  }
  request.id = next_id_++;
  ++num_live_;
  const RequestId id = request.id;
  inbox_.push_back({std::move(request), std::move(listener), Clock::now()});
  wake_.notify_one();
  return id;
}

void EngineLoop::Abort(RequestId id) {
  std::lock_guard lock(mutex_);
  aborts_.push_back(id);
  wake_.notify_one();
}

void EngineLoop::ClearPrefixCache() {
  std::lock_guard lock(mutex_);
  clear_cache_ = true;
  wake_.notify_one();
}

EngineStats EngineLoop::Stats() const {
  std::lock_guard lock(mutex_);
  EngineStats stats = stats_;
  stats.num_waiting += static_cast<int>(inbox_.size());
  return stats;
}

Status EngineLoop::CheckRequest(const Request& request) const {
  if (!runner_->HasRatio(request.compression_percent())) {
    return MakeError(
        ErrorKind::kInvalidArgument,
        fmt::format("compression_ratio {:.2f} is not served: {}", request.compression_ratio,
                    info_.compression.enabled()
                        ? fmt::format("this server's profile was measured from {:.2f} to 1",
                                      info_.least_ratio)
                        : "this server compresses nothing (see --enable-compression)"),
        "compression_ratio");
  }
  const auto size = static_cast<int64_t>(request.prompt.size());
  if (size == 0) return MakeError(ErrorKind::kInvalidArgument, "the prompt is empty", "prompt");
  for (TokenId id : request.prompt) {
    if (id < 0 || id >= info_.vocab_size) {
      return MakeError(ErrorKind::kInvalidArgument,
                       fmt::format("token id {} is out of vocabulary: ids are 0 to {}", id,
                                   info_.vocab_size - 1),
                       "prompt");
    }
  }
  if (size + request.stop.max_tokens > info_.max_model_len) {
    return MakeError(
        ErrorKind::kInvalidArgument,
        fmt::format("This model's maximum context length is {} tokens. You requested {} tokens ({} "
                    "in the prompt, {} for the completion). Shorten the prompt or ask for fewer.",
                    info_.max_model_len, size + request.stop.max_tokens, size,
                    request.stop.max_tokens),
        size >= info_.max_model_len ? "prompt" : "max_tokens");
  }
  return {};
}

// The loop: take what came, and run a step.
void EngineLoop::Run() {
  try {
    while (WaitForWork()) {
      TakeInbox();
      Step();
    }
    // What the step in flight works on is freed next.
    if (in_flight_) runner_->backend().Wait(in_flight_->ticket);
    EndAll(FinishReason::kAbort);
  } catch (const std::exception& e) {
    LogError("the engine died: {}", e.what());
    dead_ = true;
    EndAll(FinishReason::kError);
  }
}

// False when the engine stops.
bool EngineLoop::WaitForWork() {
  std::unique_lock lock(mutex_);
  wake_.wait(lock, [this] {
    return stopping_ || clear_cache_ || !inbox_.empty() || !aborts_.empty() ||
           scheduler_->HasWork();
  });
  return !stopping_;
}

void EngineLoop::TakeInbox() {
  std::vector<Submission> submissions;
  std::vector<RequestId> aborts;
  bool clear = false;
  {
    std::lock_guard lock(mutex_);
    submissions.swap(inbox_);
    aborts.swap(aborts_);
    std::swap(clear, clear_cache_);
  }
  for (Submission& s : submissions) Admit(std::move(s));
  std::erase_if(aborts, [this](RequestId id) { return !scheduler_->Abort(id); });
  if (clear) scheduler_->ClearPrefixCache();
  // Before the listeners are told, so that whoever hears of an end finds its pages free.
  PublishStats();
  for (RequestId id : aborts) End(id, FinishReason::kAbort);
}

void EngineLoop::Admit(Submission s) {
  Request& r = s.request;
  if (!r.stop.ignore_eos) {
    r.stop.stop_token_ids.insert(r.stop.stop_token_ids.end(), info_.eos_token_ids.begin(),
                                 info_.eos_token_ids.end());
  }
  // Without a seed of its own a request gets one that no other has.
  const uint64_t seed = r.sampling.seed.value_or(config_.seed ^ (r.id * 0x9e3779b97f4a7c15ULL));
  live_.emplace(r.id, LiveRequest(r, std::move(s.listener), seed, s.submitted));
  totals_.prompt_tokens += r.prompt.size();
  scheduler_->Add(std::move(r));
}

// One step is queued, and the tokens of the one before are taken, or its own where the backend does
// not queue. The sampling of a step is queued once all earlier tokens are known: what penalties and
// bans look at.
void EngineLoop::Step() {
  std::optional<StepInFlight> launched = Launch();
  if (in_flight_) Resolve(*std::exchange(in_flight_, std::nullopt));
  if (launched) {
    QueueSampling(*launched);
    if (runner_->backend().steps_in_flight() > 1) {
      in_flight_ = std::move(launched);
    } else {
      Resolve(*launched);
    }
  }
  PublishStats();
  EmitAll();
}

// Nothing if no sequence can run: all wait for pages, or for the tokens of the step in flight.
std::optional<EngineLoop::StepInFlight> EngineLoop::Launch() {
  const auto begin = Clock::now();
  const SchedulerOutput& output = scheduler_->Schedule();
  if (output.empty()) return std::nullopt;
  StepInFlight step;
  for (const ScheduledSequence& s : output.sequences) {
    live_.at(s.id).Started(begin);
    if (s.needs_sampling) {
      step.draws.push_back({s.id, s.slot, s.retention, s.num_computed + s.num_tokens});
    }
  }
  const auto scheduled = Clock::now();
  step.logits = runner_->Run(output);
  const auto ran = Clock::now();
  if (info_.compression.enabled()) {
    totals_.compression_seconds.Add(runner_->TakeCompressionSeconds());
  }
  totals_.step_tokens.Add(output.num_tokens());
  ++totals_.num_steps;
  scheduler_->Advance();
  totals_.forward_seconds += SecondsBetween(scheduled, ran);
  totals_.schedule_seconds += SecondsBetween(begin, scheduled) + SecondsBetween(ran, Clock::now());
  return step;
}

void EngineLoop::QueueSampling(StepInFlight& step) {
  const auto begin = Clock::now();
  sampling_.Clear();
  int logit_row = 0;
  for (StepInFlight::Draw& draw : step.draws) {
    if (const auto it = live_.find(draw.id); it != live_.end() && !it->second.ended()) {
      draw.row = static_cast<int>(sampling_.rows.size());
      it->second.AddSamplingRow(logit_row, draw.slot, draw.position, info_.vocab_size, sampling_);
    }
    ++logit_row;
  }
  step.ticket = runner_->backend().Sample(step.logits, sampling_);
  totals_.sample_seconds += SecondsBetween(begin, Clock::now());
}

void EngineLoop::Resolve(const StepInFlight& step) {
  const auto begin = Clock::now();
  const ops::SamplingOutput& drawn = runner_->backend().Wait(step.ticket);
  const auto waited = Clock::now();
  drawn_.clear();
  for (const StepInFlight::Draw& draw : step.draws) {
    drawn_.push_back(draw.row < 0 ? -1 : drawn.tokens[static_cast<size_t>(draw.row)]);
  }
  for (const StepResult& result : scheduler_->Resolve(drawn_)) {
    const StepInFlight::Draw& draw = step.draws[static_cast<size_t>(result.row)];
    TokenEvent event;
    if (result.token < 0) {
      LogError("request {}: the model gave no finite logit; the request is ended", result.id);
      event.finished = true;
      event.reason = FinishReason::kError;
    } else {
      event = EventOf(draw, result, drawn);
      live_.at(result.id).Take(event);
      ++totals_.generation_tokens;
    }
    // It draws no more, though its last step may be in flight still.
    if (event.finished) live_.at(result.id).End();
    events_.emplace_back(result.id, std::move(event));
  }
  totals_.wait_seconds += SecondsBetween(begin, waited);
  totals_.sample_seconds += SecondsBetween(waited, Clock::now());
}

TokenEvent EngineLoop::EventOf(const StepInFlight::Draw& draw, const StepResult& result,
                               const ops::SamplingOutput& drawn) const {
  const auto row = static_cast<size_t>(draw.row);
  TokenEvent event;
  event.token = result.token;
  event.logprob = drawn.logprobs[row];
  event.top_logprobs = drawn.top[row];
  event.finished = result.finished;
  event.reason = result.reason;
  event.stop_token = result.stop_token;
  event.num_cached_tokens = result.num_cached_tokens;
  event.logical_tokens = draw.position;
  event.resident_tokens =
      runner_->tables()[static_cast<size_t>(draw.retention)].MeanLength(draw.position);
  return event;
}

void EngineLoop::EmitAll() {
  for (const auto& [id, event] : events_) {
    live_.at(id).Tell(event);
    if (event.finished) Erase(id);
  }
  events_.clear();
}

void EngineLoop::End(RequestId id, FinishReason reason) {
  const auto it = live_.find(id);
  if (it == live_.end()) return;
  TokenEvent event;
  event.finished = true;
  event.reason = reason;
  it->second.Tell(event);
  Erase(id);
}

void EngineLoop::Erase(RequestId id) {
  live_.erase(id);
  std::lock_guard lock(mutex_);
  --num_live_;
}

void EngineLoop::EndAll(FinishReason reason) {
  {
    std::lock_guard lock(mutex_);
    for (Submission& s : inbox_) {
      live_.emplace(s.request.id, LiveRequest(s.request, std::move(s.listener), 0, s.submitted));
    }
    inbox_.clear();
  }
  while (!live_.empty()) End(live_.begin()->first, reason);
  PublishStats();
}

void EngineLoop::PublishStats() {
  EngineStats stats = totals_;
  stats.Take(scheduler_->Stats());
  std::lock_guard lock(mutex_);
  stats_ = stats;
}

}  // namespace tangram
