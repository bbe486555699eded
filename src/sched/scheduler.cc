#include "sched/scheduler.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "sched/scheduler_impl.h"

namespace tangram {

constexpr int kOftenEnough =
    8;  // one kind of state is asked for so many times as often as the other

// An odd number of cache lines, so that the same place of all rows is not in one set of the cache.
constexpr int RowStride(int pages) { return ((pages + 15) / 16 | 1) * 16; }

constexpr int kHistoriesPerPool =
    4;  // token histories are remembered for so many times what the pool holds

Scheduler::Impl::Impl(SchedulerConfig config, std::vector<RetentionTable> tables)
    : config_(config),
      pool_(config.num_pages),
      slots_({.num_slots = config.max_num_seqs,
              .num_rows = config.num_rows,
              .max_pages_per_row =
                  RowStride((config.max_model_len + config.page_size - 1) / config.page_size),
              .page_size = config.page_size,
              .window = config.window},
             &pool_),
      cache_(config.page_size, config.num_rows, tables.at(0).chunk(),
             kHistoriesPerPool * config.num_pages * config.page_size / config.num_rows, &pool_) {
  for (RetentionTable& table : tables) AddTable(std::move(table));
}

void Scheduler::Impl::AddTable(RetentionTable table) {
  TANGRAM_CHECK(table.full() == tables_.empty(), "the first table keeps all, others do not");
  TANGRAM_CHECK(TableIndex(table.percent()) < 0, "a second table for {}%", table.percent());
  TANGRAM_CHECK(table.num_rows() == config_.num_rows && table.chunk() % config_.page_size == 0,
                "{} rows, boundaries every {}", table.num_rows(), table.chunk());
  if (!table.full()) {
    TANGRAM_CHECK(
        table.chunk() == tables_[0].chunk() && table.max_tokens() >= config_.max_model_len,
        "boundaries every {} up to {}", table.chunk(), table.max_tokens());
    for (int row = 0; row < config_.num_rows; ++row) {
      const int first = table.Retained(row, table.chunk());
      TANGRAM_CHECK(first > 0 && first >= config_.window, "row {} begins with {}", row, first);
    }
    TANGRAM_CHECK(table.unit() % config_.page_size == 0, "lengths are not multiples of a page");
  }
  tables_.push_back(std::move(table));
}

int Scheduler::Impl::TableIndex(int percent) const {
  const auto it = std::ranges::find(tables_, percent, &RetentionTable::percent);
  return it == tables_.end() ? -1 : static_cast<int>(it - tables_.begin());
}

bool Scheduler::Impl::Fits(const Request& request) const {
  const int last = static_cast<int>(request.prompt.size()) + request.stop.max_tokens - 1;
  const int index = TableIndex(request.compression_percent());
  TANGRAM_CHECK(index >= 0, "no table for a ratio of {}", request.compression_ratio);
  const RetentionTable& table = tables_[index];
  return last < config_.max_model_len &&
         table.PeakPages(0, last, config_.page_size) <= config_.num_pages;
}

void Scheduler::Impl::Add(Request request) {
  auto seq = std::make_unique<Sequence>();
  seq->tokens = request.prompt;
  seq->order = {config_.priority_policy ? request.priority : 0, num_arrivals_++};
  seq->table = TableIndex(request.compression_percent());
  TANGRAM_CHECK(seq->table >= 0, "no table for a ratio of {}", request.compression_ratio);
  seq->request = std::move(request);
  const auto [it, is_new] = sequences_.try_emplace(seq->request.id, std::move(seq));
  TANGRAM_CHECK(is_new, "request {} twice", it->first);
  Enqueue(*it->second);
}

bool Scheduler::Impl::Abort(RequestId id) {
  const auto it = sequences_.find(id);
  if (it == sequences_.end() || it->second->aborted) return false;
  Sequence& seq = *it->second;
  blocked_ = nullptr;
  if (seq.num_scheduled > 0) {  // the device is writing to its pages
    seq.aborted = true;
    return true;
  }
  if (seq.slot >= 0) {
    RemoveRunning(seq);
    LeaveSlot(seq, /*ended=*/true);
  } else {
    FindState(seq);  // nobody waits for it any longer
    waiting_.erase(seq.order);
  }
  sequences_.erase(it);
  return true;
}

const std::vector<StepResult>& Scheduler::Impl::Complete(std::span<const TokenId> sampled) {
  results_.clear();
  slots_.ReleaseCopied();
  size_t next = 0;
  for (size_t i = 0; i < in_step_.size(); ++i) {
    Sequence& seq = *in_step_[i];
    Advance(seq);
    bool finished = seq.aborted;
    if (output_.sequences[i].samples) {
      TANGRAM_CHECK(next < sampled.size(), "{} sampled tokens", sampled.size());
      const TokenId token = sampled[next++];
      if (!seq.aborted) finished = Append(seq, token);
    }
    if (finished) {
      RemoveRunning(seq);
      LeaveSlot(seq, /*ended=*/true);
      sequences_.erase(seq.request.id);
    }
  }
  TANGRAM_CHECK(next == sampled.size(), "{} sampled tokens for {}", sampled.size(), next);
  in_step_.clear();
  return results_;
}

// The scheduled tokens are processed now.
void Scheduler::Impl::Advance(Sequence& seq) {
  const RetentionTable& table = TableOf(seq);
  seq.num_computed += seq.num_scheduled;
  seq.num_scheduled = 0;
  const int before = std::exchange(seq.boundary, table.Boundary(seq.num_computed));
  const int64_t held = slots_.num_pages(seq.slot);
  const int64_t needed = table.Pages(seq.num_computed, config_.page_size);
  if (held != needed) slots_.Trim(seq.slot, table, seq.num_computed);
  compression_runs_ += static_cast<uint64_t>((seq.boundary - before) / table.chunk());
  pages_reclaimed_ += static_cast<uint64_t>(held - needed);
  if (seq.boundary > before) RetireState(seq, before);
  if (seq.num_computed == static_cast<int>(seq.request.prompt.size())) {
    LeaveState(seq, PrefixCache::Extent::kWholePages);
  }
  if (seq.snapshot > 0 && seq.boundary >= seq.snapshot) {
    LeaveState(seq, PrefixCache::Extent::kCompressed);
    seq.snapshot = 0;
  }
}

// Takes the next token. Whether it is the last.
bool Scheduler::Impl::Append(Sequence& seq, TokenId token) {
  seq.tokens.push_back(token);
  const StopParams& stop = seq.request.stop;
  StepResult& result =
      results_.emplace_back(StepResult{seq.request.id, token, false, FinishReason::kLength});
  if (seq.num_generated() >= stop.min_tokens &&
      std::ranges::find(stop.stop_token_ids, token) != stop.stop_token_ids.end()) {
    result.reason = FinishReason::kStop;
    result.stop_token = token;
    return result.finished = true;
  }
  return result.finished =
             seq.num_generated() >= stop.max_tokens || seq.num_tokens() >= config_.max_model_len;
}

void Scheduler::Impl::LeaveState(const Sequence& seq, PrefixCache::Extent extent) {
  blocked_ = nullptr;
  if (!config_.enable_prefix_caching) return;
  cache_.Insert(KindOf(seq), Computed(seq), SlotOf(seq), extent);
}

void Scheduler::Impl::LeaveSlot(Sequence& seq, bool ended) {
  LeaveState(seq, PrefixCache::Extent::kAll);
  if (config_.enable_prefix_caching && !TableOf(seq).full()) {
    cache_.Remember(seq.request.cache_salt, Computed(seq));
    const bool own = seq.boundary >= BoundaryAfterPrompt(seq);  // not the prompt's state as well
    if (ended && own && hits_after_prompt_ > kOftenEnough * hits_at_end_) {
      cache_.Retire(KindOf(seq), Computed(seq), seq.boundary);
    }
  }
  slots_.GiveSlot(seq.slot);
  seq.slot = -1;
  seq.num_computed = seq.boundary = seq.snapshot = 0;
}

// The sequence goes on from its state at `boundary` and will leave a longer one. The state after
// its prompt is there for those who drop the answer, while there are such.
void Scheduler::Impl::RetireState(const Sequence& seq, int boundary) {
  if (!config_.enable_prefix_caching) return;
  const bool after_prompt = boundary + TableOf(seq).chunk() == BoundaryAfterPrompt(seq);
  if (after_prompt && hits_at_end_ <= kOftenEnough * hits_after_prompt_) return;
  cache_.Retire(KindOf(seq), Computed(seq), boundary);
}

void Scheduler::Impl::RemoveRunning(const Sequence& seq) {
  running_.erase(std::ranges::find(running_, &seq));
}

PrefixCache::Kind Scheduler::Impl::KindOf(const Sequence& seq) const {
  return {seq.request.cache_salt, seq.table, &TableOf(seq)};
}

PrefixCache::Slot Scheduler::Impl::SlotOf(const Sequence& seq) const {
  return {&slots_.table(), seq.slot, seq.boundary};
}

std::span<const TokenId> Scheduler::Impl::Computed(const Sequence& seq) const {
  return std::span(seq.tokens).first(seq.num_computed);
}

const Sequence* Scheduler::Impl::Find(RequestId id) const {
  const auto it = sequences_.find(id);
  return it == sequences_.end() ? nullptr : it->second.get();
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
    stats.resident_tokens += TableOf(*seq).RetainedSum(seq->boundary) +
                             int64_t{config_.num_rows} * (seq->num_computed - seq->boundary);
    stats.longest_tokens += TableOf(*seq).LongestLength(seq->num_computed);
  }
  stats.resident_tokens /= config_.num_rows;
  // What the prompts in work will still take; PagesForGrowth(0) is what they hold at their end.
  stats.pages_reserved = std::clamp<int64_t>(PagesForGrowth(0), 0, PagesAvailable());
  stats.num_preemptions = num_preemptions_;
  stats.compression_runs = compression_runs_;
  stats.pages_reclaimed = pages_reclaimed_;
  stats.blocked = admissions_blocked_;
  stats.prefix_cache_queries = cache_queries_;
  stats.prefix_cache_hits = cache_hits_;
  stats.cached_ends = cache_.num_ends();
  stats.cached_ends_evicted = cache_.ends_evicted();
  stats.cached_ends_cleared = cache_.ends_cleared();
  return stats;
}

void Scheduler::Impl::CheckInvariants() const {
  TANGRAM_CHECK(in_step_.empty(), "a step is in progress");
  std::vector<int32_t> holders(pool_.size()), keepers(pool_.size());
  for (const Sequence* seq : running_) {
    slots_.CheckInvariants(seq->slot, TableOf(*seq), seq->boundary, seq->num_computed, holders);
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
void Scheduler::AddTable(RetentionTable table) { impl_->AddTable(std::move(table)); }
bool Scheduler::HasTable(int percent) const { return impl_->TableIndex(percent) >= 0; }
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
