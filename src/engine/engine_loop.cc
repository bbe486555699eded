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
                       Scheduler scheduler)
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
  if (!scheduler_.HasTable(request.compression_percent())) {
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

// The loop: take what came, schedule, run, sample, tell. It reads as the path of a token.
void EngineLoop::Run() {
  try {
    while (WaitForWork()) {
      TakeInbox();
      Step();
    }
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
    return stopping_ || clear_cache_ || !inbox_.empty() || !aborts_.empty() || scheduler_.HasWork();
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
  std::erase_if(aborts, [this](RequestId id) { return !scheduler_.Abort(id); });
  if (clear) scheduler_.ClearPrefixCache();
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
  LiveRequest live{r.sampling,
                   r.stop,
                   std::move(s.listener),
                   TokenCounts(r.sampling, r.prompt),
                   seed,
                   static_cast<int>(r.prompt.size()),
                   s.submitted};
  live_.emplace(r.id, std::move(live));
  totals_.prompt_tokens += r.prompt.size();
  scheduler_.Add(std::move(r));
}

void EngineLoop::Step() {
  const auto begin = Clock::now();
  const SchedulerOutput& output = scheduler_.Schedule();
  if (output.empty()) return PublishStats();
  for (const ScheduledSequence& s : output.sequences) {
    LiveRequest& live = live_.at(s.id);
    if (!std::exchange(live.started, true)) live.first_scheduled = begin;
  }
  const auto scheduled = Clock::now();
  const TensorView logits = runner_->Run(output, scheduler_);
  const auto ran = Clock::now();
  // Before the listeners are told: who hears of an end finds its step counted.
  if (info_.compression.enabled()) {
    totals_.compression_seconds.Add(runner_->TakeCompressionSeconds());
  }
  totals_.schedule_seconds += SecondsBetween(begin, scheduled);
  totals_.forward_seconds += SecondsBetween(scheduled, ran);
  ++totals_.num_steps;
  totals_.step_tokens.Add(output.num_tokens);
  SampleAndTell(output, logits);
  totals_.sample_seconds += SecondsBetween(ran, Clock::now());
}

void EngineLoop::SampleAndTell(const SchedulerOutput& output, const TensorView& logits) {
  events_.clear();
  tokens_.clear();
  failed_.clear();
  size_t row = 0;
  for (const ScheduledSequence& s : output.sequences) {
    if (!s.samples) continue;
    events_.push_back(SampleOne(s, logits, row++));
    tokens_.push_back(events_.back().token);
  }
  const std::vector<StepResult>& results = scheduler_.Complete(tokens_);
  totals_.generation_tokens += results.size();
  PublishStats();
  for (size_t i = 0; i < results.size(); ++i) {
    TokenEvent& event = events_[i];
    event.finished = results[i].finished;
    event.reason = results[i].reason;
    event.stop_token = results[i].stop_token;
    Tell(results[i].id, event);
  }
  for (RequestId id : failed_) {
    LogError("request {}: the model gave no finite logit; the request is ended", id);
    scheduler_.Abort(id);  // false if this token was its last anyway
    End(id, FinishReason::kError);
  }
}

TokenEvent EngineLoop::SampleOne(const ScheduledSequence& s, const TensorView& logits, size_t row) {
  LiveRequest& live = live_.at(s.id);
  const auto vocab = static_cast<size_t>(info_.vocab_size);
  const int position = s.num_computed + s.num_tokens;
  FindBanned(live, scheduler_.Tokens(s.id).subspan(static_cast<size_t>(live.prompt_size)));
  SampledToken sampled = sampler_.Sample({{logits.as<float>() + row * vocab, vocab},
                                          live.sampling,
                                          live.counts,
                                          banned_,
                                          live.seed,
                                          position});
  TokenEvent event;
  event.logical_tokens = position;
  event.resident_tokens = scheduler_.table(s.table).MeanLength(position);
  if (sampled.token < 0) {
    failed_.push_back(s.id);
    sampled.token = 0;
  }
  live.counts.Add(sampled.token);
  event.token = sampled.token;
  event.logprob = sampled.logprob;
  event.top_logprobs = std::move(sampled.top_logprobs);
  if (!std::exchange(live.has_token, true)) {
    event.num_cached_tokens = scheduler_.NumCachedTokens(s.id);
    event.queue_seconds = SecondsBetween(live.submitted, live.first_scheduled);
    event.prefill_seconds = SecondsBetween(live.first_scheduled, Clock::now());
  }
  return event;
}

// What must not be generated next: stop ids before min_tokens, and the ends of bad words.
void EngineLoop::FindBanned(const LiveRequest& live, std::span<const TokenId> generated) {
  banned_.clear();
  if (static_cast<int>(generated.size()) < live.stop.min_tokens) {
    banned_ = live.stop.stop_token_ids;
  }
  for (const std::vector<TokenId>& word : live.sampling.bad_words) {
    const size_t head = word.size() - 1;
    if (generated.size() >= head &&
        std::ranges::equal(std::span(word).first(head), generated.last(head))) {
      banned_.push_back(word.back());
    }
  }
}

void EngineLoop::Tell(RequestId id, const TokenEvent& event) {
  if (std::ranges::find(failed_, id) != failed_.end()) return;
  const auto it = live_.find(id);
  it->second.listener(event);
  if (event.finished) Forget(id);
}

void EngineLoop::End(RequestId id, FinishReason reason) {
  const auto it = live_.find(id);
  if (it == live_.end()) return;
  TokenEvent event;
  event.finished = true;
  event.reason = reason;
  it->second.listener(event);
  Forget(id);
}

void EngineLoop::Forget(RequestId id) {
  live_.erase(id);
  std::lock_guard lock(mutex_);
  --num_live_;
}

void EngineLoop::EndAll(FinishReason reason) {
  {
    std::lock_guard lock(mutex_);
    for (Submission& s : inbox_) {
      live_.emplace(s.request.id,
                    LiveRequest{s.request.sampling, s.request.stop, std::move(s.listener),
                                TokenCounts(s.request.sampling, {}), 0, 0, s.submitted});
    }
    inbox_.clear();
  }
  while (!live_.empty()) End(live_.begin()->first, reason);
  PublishStats();
}

void EngineLoop::PublishStats() {
  const SchedulerStats s = scheduler_.Stats();
  EngineStats stats = totals_;
  stats.num_running = s.num_running;
  stats.num_waiting = s.num_waiting;
  stats.pages_total = s.pages_total;
  stats.pages_held = s.pages_held;
  stats.pages_cached = s.pages_cached;
  stats.pages_reserved = s.pages_reserved;
  stats.logical_tokens = s.logical_tokens;
  stats.resident_tokens = s.resident_tokens;
  stats.longest_tokens = s.longest_tokens;
  stats.compression_runs = s.compression_runs;
  stats.pages_reclaimed = s.pages_reclaimed;
  stats.blocked_by_pages = s.blocked.pages;
  stats.blocked_by_slots = s.blocked.slots;
  stats.blocked_by_tokens = s.blocked.tokens;
  stats.num_preemptions = s.num_preemptions;
  stats.prefix_cache_queries = s.prefix_cache_queries;
  stats.prefix_cache_hits = s.prefix_cache_hits;
  stats.sessions = s.cached_ends;
  stats.sessions_evicted = s.cached_ends_evicted;
  stats.sessions_cleared = s.cached_ends_cleared;
  std::lock_guard lock(mutex_);
  stats_ = stats;
}

}  // namespace tangram
