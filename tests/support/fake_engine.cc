#include "support/fake_engine.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace tangram::testing {

FakeEngine::FakeEngine(Options options) : options_(std::move(options)) {
  info_.vocab_size = options_.vocab_size;
  info_.max_model_len = options_.max_model_len;
  info_.eos_token_ids = options_.eos_token_ids;
  info_.page_size = 16;
  info_.page_group_size = 4;
  info_.num_groups = 2;
  info_.num_pages = 1024;
  info_.kv_cache_dtype = "f16";
  info_.priority_policy = options_.priority_policy;
  thread_ = std::thread([this] { Run(); });
}

FakeEngine::~FakeEngine() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
  thread_.join();
}

Result<RequestId> FakeEngine::Submit(Request request, TokenListener listener) {
  std::lock_guard lock(mutex_);
  if (dead_ || stopping_) return MakeError(ErrorKind::kUnavailable, "the engine is stopping");
  if (static_cast<int>(live_.size()) >= options_.max_running + options_.max_queued) {
    return MakeError(ErrorKind::kUnavailable, "the queue is full");
  }
  const RequestId id = next_id_++;
  request.id = id;
  prompt_tokens_ += request.prompt.size();
  submitted_.push_back(request);
  live_[id] = {std::move(request), std::move(listener), 0, std::chrono::steady_clock::now(), {}};
  wake_.notify_all();
  return id;
}

void FakeEngine::Abort(RequestId id) {
  std::lock_guard lock(mutex_);
  aborts_.push_back(id);
  wake_.notify_all();
}

EngineStats FakeEngine::Stats() const {
  std::lock_guard lock(mutex_);
  EngineStats stats;
  const int live = static_cast<int>(live_.size());
  stats.num_running = std::min(live, options_.max_running);
  stats.num_waiting = live - stats.num_running;
  stats.pages_total = info_.num_pages;
  for (const auto& [id, l] : live_) {
    stats.logical_tokens += static_cast<int64_t>(l.request.prompt.size()) + l.num_generated;
  }
  stats.resident_tokens = stats.logical_tokens;
  stats.pages_held = (stats.logical_tokens + 15) / 16 * info_.num_groups;
  stats.prompt_tokens = prompt_tokens_;
  stats.generation_tokens = generation_tokens_;
  stats.step_tokens = step_tokens_;
  return stats;
}

std::vector<Request> FakeEngine::submitted() const {
  std::lock_guard lock(mutex_);
  return submitted_;
}

void FakeEngine::Die() {
  std::lock_guard lock(mutex_);
  dead_ = true;
  wake_.notify_all();
}

void FakeEngine::End(FinishReason reason, const Live& live) {
  TokenEvent event;
  event.finished = true;
  event.reason = reason;
  live.listener(event);
}

void FakeEngine::Run() {
  std::unique_lock lock(mutex_);
  while (!stopping_ && !dead_) {
    wake_.wait(lock, [this] { return stopping_ || dead_ || !live_.empty(); });
    for (const RequestId id : std::exchange(aborts_, {})) {
      if (const auto it = live_.find(id); it != live_.end()) {
        End(FinishReason::kAbort, it->second);
        live_.erase(it);
      }
    }
    if (options_.step_time.count() > 0) {
      wake_.wait_for(lock, options_.step_time, [this] { return stopping_ || dead_; });
    }
    std::vector<RequestId> finished;
    int running = 0;
    for (auto& [id, live] : live_) {
      if (running++ < options_.max_running) Step(&live, &finished);
    }
    for (const RequestId id : finished) live_.erase(id);
    lock.unlock();  // for those who wait to submit
    std::this_thread::yield();
    lock.lock();
  }
  for (auto& [id, live] : live_) End(dead_ ? FinishReason::kError : FinishReason::kAbort, live);
  live_.clear();
}

void FakeEngine::Step(Live* live, std::vector<RequestId>* finished) {
  const auto now = std::chrono::steady_clock::now();
  const Request& r = live->request;
  if (live->started.time_since_epoch().count() == 0) live->started = now;
  if (now - live->started < options_.prefill_time) return;
  TokenEvent event;
  event.token = r.prompt[static_cast<size_t>(live->num_generated) % r.prompt.size()];
  if (r.sampling.num_logprobs >= 0) {
    event.logprob = {event.token, -0.5f, 1};
    const int count = std::min(r.sampling.num_logprobs, options_.vocab_size);
    for (int i = 0; i < count; ++i) {
      event.top_logprobs.push_back(
          {(event.token + i) % options_.vocab_size, -0.5f - static_cast<float>(i), i + 1});
    }
  }
  if (live->num_generated == 0) {
    event.queue_seconds = std::chrono::duration<double>(live->started - live->submitted).count();
    event.prefill_seconds = std::chrono::duration<double>(now - live->started).count();
    event.num_cached_tokens = 3;
  }
  ++live->num_generated;
  ++generation_tokens_;
  step_tokens_.Add(live->num_generated == 1 ? static_cast<int>(r.prompt.size()) : 1);
  const auto among = [&](const std::vector<TokenId>& ids) {
    return std::ranges::find(ids, event.token) != ids.end();
  };
  const bool stops =
      among(r.stop.stop_token_ids) || (!r.stop.ignore_eos && among(options_.eos_token_ids));
  if (stops && live->num_generated > r.stop.min_tokens) {
    event.finished = true;
    event.stop_token = event.token;
  } else if (live->num_generated >= r.stop.max_tokens) {
    event.finished = true;
    event.reason = FinishReason::kLength;
  }
  if (event.finished) finished->push_back(r.id);
  live->listener(event);
}

}  // namespace tangram::testing
