#include <algorithm>

#include "base/check.h"
#include "sched/scheduler.h"

namespace tangram {

const SchedulerOutput& Scheduler::Schedule() {
  TANGRAM_CHECK(in_step_.empty(), "Schedule() before Advance()");
  TANGRAM_CHECK(steps_.size() <= 1, "{} steps are not resolved", steps_.size());
  output_.Clear();
  budget_ = config_.max_num_batched_tokens;
  ScheduleRunning(/*decoding=*/true);
  ScheduleRunning(/*decoding=*/false);
  if (output_.preempted.empty()) Admit();
  CountBlocked();
  TANGRAM_CHECK(!output_.empty() || sequences_.empty() || !steps_.empty(),
                "{} sequences and no step", sequences_.size());
  return output_;
}

// A sequence for which there is no page, and none behind it to take one from, is left out of the
// step.
void Scheduler::ScheduleRunning(bool decoding) {
  for (size_t i = 0; i < running_.size() && budget_ > 0; ++i) {
    const Sequence& seq = *running_[i];
    if (seq.num_scheduled > 0 || seq.decoding() != decoding || WillEnd(seq)) continue;
    TrySchedule(i, decoding);
  }
}

// Whether the token that is being drawn is its last, whatever it is.
bool Scheduler::WillEnd(const Sequence& seq) const {
  return seq.num_pending > 0 && (seq.num_generated() >= seq.request.stop.max_tokens ||
                                 seq.num_tokens() >= config_.max_model_len);
}

bool Scheduler::TrySchedule(size_t index, bool decode) {
  Sequence& seq = *running_[index];
  const RetentionTable& table = TableOf(seq);
  const int end = StepEnd(seq);
  // A conversation whose template drops the answer's reasoning comes back to here.
  if (!table.full() && seq.num_computed == BoundaryAfterPrompt(seq))
    CachePrefix(seq, PrefixCache::Extent::kWholePages);
  const int64_t growth =
      table.PeakPages(seq.boundary, end, config_.page_size) - slots_.num_pages(seq.slot);
  int64_t copies = slots_.CountSharedWrites(seq.slot, table, seq.boundary, end);
  if (copies > 0 && PagesAvailable() < growth + copies) {
    cache_.Remove(NamespaceOf(seq), Computed(seq), SlotOf(seq));
    copies = slots_.CountSharedWrites(seq.slot, table, seq.boundary, end);
  }
  if (growth + copies > 0) {
    if (!MakeRoom(index, growth + copies)) return false;
    Evict(growth + copies);
    slots_.CopySharedWrites(seq.slot, table, seq.boundary, end, output_);
    slots_.Grow(seq.slot, table, seq.boundary, end, output_);
  }
  AppendToOutput(seq, end, decode);
  return true;
}

void Scheduler::AppendToOutput(Sequence& seq, int end, bool decode) {
  const int n = seq.num_computed, num_tokens = end - n, chunk = TableOf(seq).chunk();
  seq.num_scheduled = num_tokens;
  budget_ -= num_tokens;
  if (config_.stop_at_boundaries && !TableOf(seq).full() && n > seq.boundary && n % chunk == 0) {
    const auto from = seq.tokens.begin() + n - chunk;
    output_.chunks.push_back({static_cast<int>(output_.sequences.size()), {from, from + chunk}});
  }
  output_.sequences.push_back({seq.request.id, seq.slot, seq.retention, n, seq.boundary, num_tokens,
                               decode, end == seq.num_tokens()});
  const int known = std::min(end, seq.num_known());
  output_.tokens.insert(output_.tokens.end(), seq.tokens.begin() + n, seq.tokens.begin() + known);
  if (known < end) output_.tokens.push_back(SchedulerOutput::kLastDrawn);
  in_step_.push_back(&seq);
}

// Where the step has to end: at all that is known, at the budget, or where a state is to be left.
int Scheduler::StepEnd(const Sequence& seq) const {
  const RetentionTable& table = TableOf(seq);
  const int n = seq.num_computed;
  int end = n + std::min(seq.num_new(), budget_);
  if (table.full()) return end;
  if (config_.stop_at_boundaries) end = std::min(end, (n / table.chunk() + 1) * table.chunk());
  if (!config_.enable_prefix_caching) return end;
  if (seq.snapshot > 0) end = std::min(end, seq.snapshot + table.chunk());
  if (n < BoundaryAfterPrompt(seq)) end = std::min(end, BoundaryAfterPrompt(seq));
  return end;
}

int Scheduler::BoundaryAfterPrompt(const Sequence& seq) const {
  const int chunk = TableOf(seq).chunk(), prompt = static_cast<int>(seq.request.prompt.size());
  return (prompt + chunk - 1) / chunk * chunk;
}

// Frees pages for the sequence at `index`, at the cost of those behind it that are not in the step.
bool Scheduler::MakeRoom(size_t index, int64_t pages) {
  size_t victim = running_.size();
  while (PagesAvailable() < pages) {
    do {
      if (--victim <= index) return false;
    } while (running_[victim]->num_scheduled > 0);
    Preempt(victim);
  }
  return true;
}

void Scheduler::Evict(int64_t pages) {
  if (pool_.num_free() < pages) cache_.Evict(pages);
}

// Finishing early: it goes back to the queue, and will find its own state.
void Scheduler::Preempt(size_t index) {
  Sequence& seq = *running_[index];
  running_.erase(running_.begin() + static_cast<ptrdiff_t>(index));
  ReleaseSlot(seq, /*ended=*/false);
  Enqueue(seq);
  output_.preempted.push_back(seq.request.id);
  ++num_preemptions_;
}

void Scheduler::Admit() {
  while (!waiting_.empty() && budget_ > 0 &&
         running_.size() < static_cast<size_t>(config_.max_num_seqs)) {
    Sequence& seq = *waiting_.begin()->second;
    if (blocked_ == &seq) return;
    PrefixCache::Match match = FindState(seq);
    bool admitted = CanAdmit(seq, match);
    if (!admitted && !match.copied.empty()) {  // for the step, a copy costs its page twice
      match.copied = {};
      match.num_tokens = match.boundary + int(match.shared.size()) * config_.page_size;
      admitted = CanAdmit(seq, match);
    }
    if (!admitted) {
      blocked_ = &seq;
      return;
    }
    waiting_.erase(waiting_.begin());
    if (!TrySchedule(Start(seq, match), /*decode=*/false)) return;
  }
}

// Pages are what is lacking where neither slots nor tokens are, or where a step preempted.
void Scheduler::CountBlocked() {
  if (waiting_.empty()) return;
  AdmissionsBlocked& blocked = admissions_blocked_;
  const bool slots = running_.size() >= static_cast<size_t>(config_.max_num_seqs);
  const bool pages = blocked_ == waiting_.begin()->second || !output_.preempted.empty();
  ++(pages ? blocked.pages : slots ? blocked.slots : budget_ <= 0 ? blocked.tokens : blocked.pages);
}

// The last token is always processed: its logits are wanted.
PrefixCache::Match Scheduler::FindState(const Sequence& seq) {
  if (!config_.enable_prefix_caching) return {};
  const std::span<const TokenId> tokens = seq.tokens;
  return cache_.Find(NamespaceOf(seq), tokens.first(tokens.size() - 1),
                     TableOf(seq).chunk() - config_.lookback);
}

// Its state is what will be needed soonest, the more so the nearer it is to its turn: by use alone
// it would be the next to go.
void Scheduler::Enqueue(Sequence& seq) {
  waiting_[seq.order] = &seq;
  if (!config_.enable_prefix_caching) return;
  const std::span<const TokenId> tokens = seq.tokens;
  constexpr int kMost = 1 << 19;  // farther apart, priorities are alike here
  const int priority = std::clamp(seq.order.first, -kMost, kMost);
  const int64_t rank = (int64_t{priority} << 40) + static_cast<int64_t>(seq.order.second);
  cache_.PinForQueued(NamespaceOf(seq), tokens.first(tokens.size() - 1),
                      TableOf(seq).chunk() - config_.lookback, rank);
}

// By exact need: its prefill's peak, and what the running ones will take until it has been
// prefilled.
bool Scheduler::CanAdmit(const Sequence& seq, const PrefixCache::Match& match) const {
  const RetentionTable& table = TableOf(seq);
  int64_t prefill_tokens = seq.num_tokens() - match.num_tokens;
  int num_decodes = 0;
  for (const Sequence* other : running_) {
    const int left = other->num_new() - other->num_scheduled;
    prefill_tokens += left;
    num_decodes += left == 0;
  }
  const int per_step = std::max(1, config_.max_num_batched_tokens - num_decodes);
  const int num_steps = static_cast<int>((prefill_tokens + per_step - 1) / per_step);
  const SequencePages::Reuse reuse = slots_.CountReuse(match, table, seq.num_tokens());
  const int64_t need =
      table.PeakPages(match.boundary, seq.num_tokens(), config_.page_size) - reuse.pages;
  return need + PagesForGrowth(num_steps) <= PagesAvailable() - reuse.evictable;
}

int64_t Scheduler::PagesForGrowth(int num_steps) const {
  int64_t pages = 0;
  for (const Sequence* seq : running_) {
    const int end = std::min(seq->max_computed(), seq->num_tokens() + num_steps);
    pages += TableOf(*seq).PeakPages(seq->boundary, end, config_.page_size) -
             slots_.num_pages(seq->slot);
  }
  return pages;
}

// Returns its place among the running.
size_t Scheduler::Start(Sequence& seq, const PrefixCache::Match& match) {
  seq.slot = slots_.TakeSlot();
  slots_.Adopt(seq.slot, match, TableOf(seq), output_);
  if (!match.copied.empty()) {
    Evict(config_.num_groups);
    slots_.CopyLast(seq.slot, match, output_);
  }
  seq.num_computed = match.num_tokens;
  seq.boundary = match.boundary;
  if (!TableOf(seq).full() && config_.enable_prefix_caching) {
    // Others came this way and left nothing: a common beginning.
    if (match.num_remembered > match.num_tokens) seq.snapshot = match.num_remembered;
    cache_.Remember(seq.request.cache_salt, seq.tokens);
  }
  if (seq.num_cached < 0) {
    seq.num_cached = match.num_tokens;
    cache_queries_ += seq.tokens.size();
    cache_hits_ += match.num_tokens;
    cache_.CountHit(match);
  }
  const auto before = [](const Sequence* a, const Sequence* b) { return a->order < b->order; };
  const auto place = std::ranges::upper_bound(running_, &seq, before);
  const size_t index = place - running_.begin();
  running_.insert(place, &seq);
  return index;
}

}  // namespace tangram
