#include "sched/scheduler.h"

#include <algorithm>
#include <map>
#include <unordered_map>

#include "base/check.h"
#include "paging/page_pool.h"
#include "paging/prefix_cache.h"
#include "sched/sequence.h"
#include "sched/slot_pages.h"

namespace tangram {

class Scheduler::Impl {
 public:
  Impl(SchedulerConfig config, std::vector<RetentionTable> tables)
      : config_(config),
        tables_(std::move(tables)),
        pool_(config.num_pages),
        slots_(config.max_num_seqs, config.num_rows, PagesFor(config.max_model_len),
               config.page_size, &pool_),
        cache_(config.page_size, config.num_rows, &pool_) {
    TANGRAM_CHECK(!tables_.empty() && tables_[0].num_rows() == config.num_rows, "retention table");
  }

  bool Fits(const Request& request) const {
    const int last = static_cast<int>(request.prompt.size()) + request.stop.max_tokens - 1;
    return last < config_.max_model_len &&
           tables_[0].PeakPages(0, last, config_.page_size) <= config_.num_pages;
  }

  void Add(Request request);
  bool Abort(RequestId id);
  const SchedulerOutput& Schedule();
  const std::vector<StepResult>& Complete(std::span<const TokenId> sampled);
  SchedulerStats Stats() const;
  void CheckInvariants() const;
  void ClearPrefixCache() { cache_.Clear(); }

  bool HasWork() const { return !sequences_.empty(); }
  const PageTable& page_table() const { return slots_.table(); }
  const RetentionTable& table(int index) const { return tables_[index]; }
  const Sequence* Find(RequestId id) const {
    const auto it = sequences_.find(id);
    return it == sequences_.end() ? nullptr : it->second.get();
  }

 private:
  int PagesFor(int tokens) const { return (tokens + config_.page_size - 1) / config_.page_size; }
  const RetentionTable& TableOf(const Sequence& seq) const { return tables_[seq.table]; }
  int64_t PagesAvailable() const { return pool_.num_free() + pool_.num_evictable(); }

  void ScheduleRunning(bool decoding);
  bool MakeRoom(size_t index, int64_t pages);
  void Admit();
  PrefixCache::Match FindState(const Sequence& seq);
  bool CanAdmit(const Sequence& seq, const PrefixCache::Match& match) const;
  void Start(Sequence& seq, const PrefixCache::Match& match);
  void Evict(int64_t pages);
  void LeaveState(const Sequence& seq, bool runs_on);
  void ScheduleTokens(Sequence& seq, int num_tokens);
  void Preempt(size_t index);
  void LeaveSlot(Sequence& seq);
  void RemoveRunning(const Sequence& seq);
  bool Append(const Sequence& seq, TokenId token, StepResult& result) const;

  SchedulerConfig config_;
  std::vector<RetentionTable> tables_;
  PagePool pool_;
  SlotPages slots_;
  PrefixCache cache_;
  std::unordered_map<RequestId, std::unique_ptr<Sequence>> sequences_;
  std::map<std::pair<int, uint64_t>, Sequence*> waiting_;
  std::vector<Sequence*> running_;  // by order
  std::vector<Sequence*> in_step_;  // as in output_
  int budget_ = 0;                  // tokens that the step may still take
  SchedulerOutput output_;
  std::vector<StepResult> results_;
  std::vector<int32_t> copied_pages_;  // held until the step's copies are made
  uint64_t num_arrivals_ = 0, num_preemptions_ = 0, cache_queries_ = 0, cache_hits_ = 0;
};

void Scheduler::Impl::Add(Request request) {
  auto seq = std::make_unique<Sequence>();
  seq->tokens = request.prompt;
  seq->order = {config_.priority_policy ? request.priority : 0, num_arrivals_++};
  seq->request = std::move(request);
  waiting_[seq->order] = seq.get();
  const auto [it, is_new] = sequences_.try_emplace(seq->request.id, std::move(seq));
  TANGRAM_CHECK(is_new, "request {} twice", it->first);
}

bool Scheduler::Impl::Abort(RequestId id) {
  const auto it = sequences_.find(id);
  if (it == sequences_.end() || it->second->aborted) return false;
  Sequence& seq = *it->second;
  if (seq.num_scheduled > 0) {  // the device is writing to its pages
    seq.aborted = true;
    return true;
  }
  if (seq.slot >= 0) {
    RemoveRunning(seq);
    LeaveSlot(seq);
  } else {
    waiting_.erase(seq.order);
  }
  sequences_.erase(it);
  return true;
}

const SchedulerOutput& Scheduler::Impl::Schedule() {
  TANGRAM_CHECK(in_step_.empty(), "Schedule() before Complete()");
  output_.Clear();
  budget_ = config_.max_num_batched_tokens;
  ScheduleRunning(/*decoding=*/true);
  ScheduleRunning(/*decoding=*/false);
  if (output_.preempted.empty()) Admit();
  TANGRAM_CHECK(!output_.empty() || sequences_.empty(), "{} sequences and no step",
                sequences_.size());
  return output_;
}

// Who finds no page, and nobody behind it to take them from, sits the step out.
void Scheduler::Impl::ScheduleRunning(bool decoding) {
  for (size_t i = 0; i < running_.size() && budget_ > 0; ++i) {
    Sequence& seq = *running_[i];
    if (seq.num_scheduled > 0 || seq.decoding() != decoding) continue;
    const int num_tokens = std::min(seq.num_new(), budget_);
    const int64_t peak =
        TableOf(seq).PeakPages(seq.num_computed, seq.num_computed + num_tokens, config_.page_size);
    if (MakeRoom(i, peak - slots_.num_pages(seq.slot))) ScheduleTokens(seq, num_tokens);
  }
}

// Frees pages for the sequence at `index`, at the cost of those behind it that are not in the step.
bool Scheduler::Impl::MakeRoom(size_t index, int64_t pages) {
  size_t victim = running_.size();
  while (PagesAvailable() < pages) {
    do {
      if (--victim <= index) return false;
    } while (running_[victim]->num_scheduled > 0);
    Preempt(victim);
  }
  return true;
}

void Scheduler::Impl::Preempt(size_t index) {
  Sequence& seq = *running_[index];
  running_.erase(running_.begin() + static_cast<ptrdiff_t>(index));
  LeaveSlot(seq);
  waiting_[seq.order] = &seq;
  output_.preempted.push_back(seq.request.id);
  ++num_preemptions_;
}

void Scheduler::Impl::LeaveSlot(Sequence& seq) {
  LeaveState(seq, /*runs_on=*/false);
  slots_.GiveSlot(seq.slot);
  seq.slot = -1;
  seq.num_computed = 0;
}

void Scheduler::Impl::RemoveRunning(const Sequence& seq) {
  running_.erase(std::find(running_.begin(), running_.end(), &seq));
}

void Scheduler::Impl::LeaveState(const Sequence& seq, bool runs_on) {
  if (!config_.enable_prefix_caching) return;
  const std::span<const TokenId> tokens = seq.tokens;
  cache_.Insert(seq.request.cache_salt, tokens.first(seq.num_computed), slots_.table(), seq.slot,
                runs_on);
}

void Scheduler::Impl::Evict(int64_t pages) {
  if (pool_.num_free() < pages) cache_.Evict(pages);
}

void Scheduler::Impl::ScheduleTokens(Sequence& seq, int num_tokens) {
  const int end = seq.num_computed + num_tokens;
  const int64_t peak = TableOf(seq).PeakPages(seq.num_computed, end, config_.page_size);
  if (const int64_t pages = peak - slots_.num_pages(seq.slot); pages > 0) {
    Evict(pages);
    slots_.Grow(seq.slot, TableOf(seq), seq.num_computed, end, output_.page_updates);
  }
  seq.num_scheduled = num_tokens;
  budget_ -= num_tokens;
  output_.num_tokens += num_tokens;
  output_.sequences.push_back(
      {seq.request.id, seq.slot, seq.table, seq.num_computed, num_tokens, end == seq.num_tokens()});
  in_step_.push_back(&seq);
}

void Scheduler::Impl::Admit() {
  while (!waiting_.empty() && budget_ > 0 &&
         running_.size() < static_cast<size_t>(config_.max_num_seqs)) {
    Sequence& seq = *waiting_.begin()->second;
    PrefixCache::Match match = FindState(seq);
    bool admitted = CanAdmit(seq, match);
    if (!admitted && match.copied != nullptr) {  // for the step, a copy costs its page twice
      match.DropCopy(config_.page_size, pool_);
      admitted = CanAdmit(seq, match);
    }
    if (!admitted) return;
    waiting_.erase(waiting_.begin());
    Start(seq, match);
    ScheduleTokens(seq, std::min(seq.num_new(), budget_));
  }
}

// The last token is always processed: its logits are wanted.
PrefixCache::Match Scheduler::Impl::FindState(const Sequence& seq) {
  if (!config_.enable_prefix_caching) return {};
  const std::span<const TokenId> tokens = seq.tokens;
  return cache_.Find(seq.request.cache_salt, tokens.first(tokens.size() - 1));
}

// By exact need: its prefill's peak, and what the running ones will take until it has been
// prefilled.
bool Scheduler::Impl::CanAdmit(const Sequence& seq, const PrefixCache::Match& match) const {
  const int page_size = config_.page_size;
  int64_t prefill_tokens = seq.num_tokens() - match.num_tokens;
  int num_decodes = 0;
  for (const Sequence* other : running_) {
    const int left = other->num_new() - other->num_scheduled;
    prefill_tokens += left;
    num_decodes += left == 0;
  }
  const int per_step = std::max(1, config_.max_num_batched_tokens - num_decodes);
  const int num_steps = static_cast<int>((prefill_tokens + per_step - 1) / per_step);
  int64_t need = tables_[seq.table].PeakPages(match.num_tokens, seq.num_tokens(), page_size) -
                 int64_t(match.shared.size()) * config_.num_rows;
  for (const Sequence* other : running_) {
    const int end = std::min(other->max_computed(), other->num_tokens() + num_steps);
    need += TableOf(*other).PeakPages(other->num_computed, end, page_size) -
            slots_.num_pages(other->slot);
  }
  return need <= PagesAvailable() - match.num_evictable;
}

void Scheduler::Impl::Start(Sequence& seq, const PrefixCache::Match& match) {
  seq.slot = slots_.TakeSlot();
  for (const auto* block : match.shared) {
    slots_.Share(seq.slot, block->pages, output_.page_updates);
  }
  if (match.copied != nullptr) {
    for (const int32_t page : match.copied->pages) {
      pool_.Hold(page);
      copied_pages_.push_back(page);
    }
    Evict(config_.num_rows);
    slots_.Copy(seq.slot, match.copied->pages, output_);
  }
  seq.num_computed = match.num_tokens;
  if (seq.num_cached < 0) {
    seq.num_cached = match.num_tokens;
    cache_queries_ += seq.tokens.size();
    cache_hits_ += match.num_tokens;
  }
  const auto before = [](const Sequence* a, const Sequence* b) { return a->order < b->order; };
  running_.insert(std::upper_bound(running_.begin(), running_.end(), &seq, before), &seq);
}

const std::vector<StepResult>& Scheduler::Impl::Complete(std::span<const TokenId> sampled) {
  results_.clear();
  for (const int32_t page : copied_pages_) pool_.Release(page);
  copied_pages_.clear();
  size_t next = 0;
  for (size_t i = 0; i < in_step_.size(); ++i) {
    Sequence& seq = *in_step_[i];
    seq.num_computed += seq.num_scheduled;
    seq.num_scheduled = 0;
    if (seq.num_computed == static_cast<int>(seq.request.prompt.size())) LeaveState(seq, true);
    bool finished = seq.aborted;
    if (output_.sequences[i].samples) {
      TANGRAM_CHECK(next < sampled.size(), "{} sampled tokens", sampled.size());
      const TokenId token = sampled[next++];
      if (!seq.aborted) {
        seq.tokens.push_back(token);
        results_.push_back({seq.request.id, token, false, FinishReason::kLength});
        finished = Append(seq, token, results_.back());
      }
    }
    if (finished) {
      RemoveRunning(seq);
      LeaveSlot(seq);
      sequences_.erase(seq.request.id);
    } else if (slots_.num_pages(seq.slot) !=
               TableOf(seq).Pages(seq.num_computed, config_.page_size)) {
      slots_.Trim(seq.slot, TableOf(seq), seq.num_computed);
    }
  }
  TANGRAM_CHECK(next == sampled.size(), "{} sampled tokens for {}", sampled.size(), next);
  in_step_.clear();
  return results_;
}

// Whether the token just appended ends the sequence.
bool Scheduler::Impl::Append(const Sequence& seq, TokenId token, StepResult& result) const {
  const StopParams& stop = seq.request.stop;
  const auto& ids = stop.stop_token_ids;
  if (seq.num_generated() >= stop.min_tokens &&
      std::find(ids.begin(), ids.end(), token) != ids.end()) {
    result.reason = FinishReason::kStop;
    result.stop_token = token;
    return result.finished = true;
  }
  return result.finished =
             seq.num_generated() >= stop.max_tokens || seq.num_tokens() >= config_.max_model_len;
}

SchedulerStats Scheduler::Impl::Stats() const {
  SchedulerStats stats;
  stats.num_running = static_cast<int>(running_.size());
  stats.num_waiting = static_cast<int>(waiting_.size());
  stats.pages_total = pool_.size();
  stats.pages_held = pool_.num_held();
  stats.pages_cached = pool_.num_evictable();
  for (const Sequence* seq : running_) {
    stats.logical_tokens += seq->num_computed;
    for (int row = 0; row < config_.num_rows; ++row) {
      stats.resident_tokens += TableOf(*seq).Length(row, seq->num_computed);
    }
  }
  stats.resident_tokens /= config_.num_rows;
  stats.num_preemptions = num_preemptions_;
  stats.prefix_cache_queries = cache_queries_;
  stats.prefix_cache_hits = cache_hits_;
  return stats;
}

void Scheduler::Impl::CheckInvariants() const {
  TANGRAM_CHECK(in_step_.empty(), "a step is in progress");
  std::vector<int32_t> holders(pool_.size()), keepers(pool_.size());
  for (const Sequence* seq : running_) {
    slots_.CheckInvariants(seq->slot, TableOf(*seq), seq->num_computed, holders);
  }
  cache_.CheckInvariants(keepers);
  pool_.CheckInvariants(holders, keepers);
  TANGRAM_CHECK(running_.size() + waiting_.size() == sequences_.size(), "{} + {} sequences of {}",
                running_.size(), waiting_.size(), sequences_.size());
}

Scheduler::Scheduler(SchedulerConfig config, std::vector<RetentionTable> tables)
    : impl_(std::make_unique<Impl>(config, std::move(tables))) {}
Scheduler::Scheduler(Scheduler&&) noexcept = default;
Scheduler::~Scheduler() = default;
bool Scheduler::Fits(const Request& request) const { return impl_->Fits(request); }
void Scheduler::Add(Request request) { impl_->Add(std::move(request)); }
bool Scheduler::Abort(RequestId id) { return impl_->Abort(id); }
const SchedulerOutput& Scheduler::Schedule() { return impl_->Schedule(); }
const std::vector<StepResult>& Scheduler::Complete(std::span<const TokenId> sampled) {
  return impl_->Complete(sampled);
}
bool Scheduler::HasWork() const { return impl_->HasWork(); }
const PageTable& Scheduler::page_table() const { return impl_->page_table(); }
const RetentionTable& Scheduler::table(int index) const { return impl_->table(index); }
std::span<const TokenId> Scheduler::Tokens(RequestId id) const {
  const Sequence* seq = impl_->Find(id);
  return seq ? std::span<const TokenId>(seq->tokens) : std::span<const TokenId>();
}
int Scheduler::NumCachedTokens(RequestId id) const {
  const Sequence* seq = impl_->Find(id);
  return seq ? std::max(seq->num_cached, 0) : 0;
}
SchedulerStats Scheduler::Stats() const { return impl_->Stats(); }
void Scheduler::ClearPrefixCache() { impl_->ClearPrefixCache(); }
void Scheduler::CheckInvariants() const { impl_->CheckInvariants(); }

}  // namespace tangram
