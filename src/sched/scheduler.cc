#include "sched/scheduler.h"

#include <algorithm>
#include <utility>

#include "base/check.h"

namespace tangram {

namespace {

// An odd number of cache lines, so that the same place of all groups is not in one set of the
// cache.
constexpr int OddLines(int pages) { return ((pages + 15) / 16 | 1) * 16; }

constexpr int kHistoriesPerPool =
    4;  // token histories are remembered for so many times what the pool holds

int IndexOf(const std::vector<RetentionTable>& tables, int percent) {
  const auto it = std::ranges::find(tables, percent, &RetentionTable::percent);
  return it == tables.end() ? -1 : static_cast<int>(it - tables.begin());
}

int MaxPages(const SchedulerConfig& config) {
  if (config.max_pages > 0) return config.max_pages;
  return OddLines((config.max_model_len + config.page_size - 1) / config.page_size);
}

}  // namespace

Scheduler::Scheduler(SchedulerConfig config, std::vector<RetentionTable> tables)
    : config_(config),
      pool_(config.num_pages),
      slots_({.num_slots = config.max_num_seqs,
              .num_groups = config.num_groups,
              .max_pages = MaxPages(config),
              .page_size = config.page_size,
              .window = config.window},
             &pool_),
      cache_(config.page_size, config.num_groups, tables.at(0).chunk(),
             kHistoriesPerPool * config.num_pages * config.page_size / config.num_groups, &pool_) {
  for (RetentionTable& table : tables) AddTable(std::move(table));
}

void Scheduler::AddTable(RetentionTable table) {
  TANGRAM_CHECK(table.full() == tables_.empty(), "the first table keeps all, others do not");
  TANGRAM_CHECK(IndexOf(tables_, table.percent()) < 0, "a second table for {}%", table.percent());
  TANGRAM_CHECK(table.num_groups() == config_.num_groups && table.chunk() % config_.page_size == 0,
                "{} groups, boundaries every {}", table.num_groups(), table.chunk());
  if (!table.full()) {
    TANGRAM_CHECK(
        table.chunk() == tables_[0].chunk() && table.max_tokens() >= config_.max_model_len,
        "boundaries every {} up to {}", table.chunk(), table.max_tokens());
    for (int group = 0; group < config_.num_groups; ++group) {
      const int first = table.Retained(group, table.chunk());
      TANGRAM_CHECK(first > 0 && first >= config_.window, "group {} begins with {}", group, first);
    }
    TANGRAM_CHECK(table.unit() % config_.page_size == 0, "lengths are not multiples of a page");
  }
  tables_.push_back(std::move(table));
}

void Scheduler::Add(Request request) {
  auto seq = std::make_unique<Sequence>();
  seq->tokens = request.prompt;
  seq->order = {config_.priority_policy ? request.priority : 0, num_arrivals_++};
  seq->retention = IndexOf(tables_, request.compression_percent());
  TANGRAM_CHECK(seq->retention >= 0, "no table for a ratio of {}", request.compression_ratio);
  seq->request = std::move(request);
  const auto [it, is_new] = sequences_.try_emplace(seq->request.id, std::move(seq));
  TANGRAM_CHECK(is_new, "request {} twice", it->first);
  Enqueue(*it->second);
}

bool Scheduler::Abort(RequestId id) {
  TANGRAM_CHECK(in_step_.empty(), "Abort() before Advance()");
  const auto it = sequences_.find(id);
  if (it == sequences_.end()) return false;
  End(*it->second, /*keep_state=*/true);
  return true;
}

void Scheduler::End(Sequence& seq, bool keep_state) {
  blocked_ = nullptr;
  if (!keep_state && config_.enable_prefix_caching) cache_.RemoveAll(NamespaceOf(seq), seq.tokens);
  if (seq.slot < 0) {
    FindState(seq);  // nobody waits for it any longer
    waiting_.erase(seq.order);
  } else {
    running_.erase(std::ranges::find(running_, &seq));
    if (keep_state) {
      ReleaseSlot(seq, /*ended=*/true);
    } else {
      slots_.GiveSlot(seq.slot);
    }
  }
  sequences_.erase(seq.request.id);
}

void Scheduler::Advance() {
  slots_.ReleaseCopied();
  std::vector<RequestId>& draws = steps_.emplace_back();
  for (size_t i = 0; i < in_step_.size(); ++i) {
    Advance(*in_step_[i]);
    if (!output_.sequences[i].needs_sampling) continue;
    ++in_step_[i]->num_pending;
    draws.push_back(in_step_[i]->request.id);
  }
  in_step_.clear();
}

const std::vector<StepResult>& Scheduler::Resolve(std::span<const TokenId> drawn) {
  TANGRAM_CHECK(!steps_.empty() && steps_.front().size() == drawn.size(), "{} tokens, {} steps",
                drawn.size(), steps_.size());
  results_.clear();
  const std::vector<RequestId> ids = std::move(steps_.front());
  steps_.pop_front();
  for (size_t row = 0; row < ids.size(); ++row) {
    const auto it = sequences_.find(ids[row]);
    if (it == sequences_.end()) continue;  // aborted, or ended by the token before
    Sequence& seq = *it->second;
    --seq.num_pending;
    StepResult& result =
        results_.emplace_back(StepResult{.id = ids[row], .row = int(row), .token = drawn[row]});
    result.num_cached_tokens = std::max(seq.num_cached, 0);
    Append(seq, drawn[row], result);
    if (result.finished) End(seq, /*keep_state=*/drawn[row] >= 0);
  }
  return results_;
}

// The scheduled tokens are processed now.
void Scheduler::Advance(Sequence& seq) {
  const RetentionTable& table = TableOf(seq);
  seq.num_computed += seq.num_scheduled;
  seq.num_scheduled = 0;
  const int before = std::exchange(seq.boundary, table.Boundary(seq.num_computed));
  const int64_t held = slots_.num_pages(seq.slot);
  const int64_t needed = table.Pages(seq.num_computed, config_.page_size);
  if (held != needed) slots_.Trim(seq.slot, table, seq.boundary, seq.num_computed);
  compression_runs_ += static_cast<uint64_t>((seq.boundary - before) / table.chunk());
  pages_reclaimed_ += static_cast<uint64_t>(held - needed);
  if (seq.boundary > before) MarkEvictFirst(seq, before);
  if (seq.num_computed == static_cast<int>(seq.request.prompt.size())) {
    CachePrefix(seq, PrefixCache::Extent::kWholePages);
  }
  if (seq.snapshot > 0 && seq.boundary >= seq.snapshot) {
    CachePrefix(seq, PrefixCache::Extent::kCompressed);
    seq.snapshot = 0;
  }
}

// Takes the next token, and finds whether it is the last.
void Scheduler::Append(Sequence& seq, TokenId token, StepResult& result) {
  if (token < 0) {
    result.finished = true;
    result.reason = FinishReason::kError;
    return;
  }
  seq.tokens.push_back(token);
  const StopParams& stop = seq.request.stop;
  const int num_known = seq.num_known();
  const int num_generated = num_known - static_cast<int>(seq.request.prompt.size());
  if (num_generated >= stop.min_tokens &&
      std::ranges::find(stop.stop_token_ids, token) != stop.stop_token_ids.end()) {
    result.finished = true;
    result.reason = FinishReason::kStop;
    result.stop_token = token;
    return;
  }
  result.reason = FinishReason::kLength;
  result.finished = num_generated >= stop.max_tokens || num_known >= config_.max_model_len;
}

void Scheduler::CachePrefix(const Sequence& seq, PrefixCache::Extent extent) {
  blocked_ = nullptr;
  if (!config_.enable_prefix_caching) return;
  cache_.Insert(NamespaceOf(seq), Computed(seq), SlotOf(seq), extent);
}

void Scheduler::ReleaseSlot(Sequence& seq, bool ended) {
  CachePrefix(seq, PrefixCache::Extent::kAll);
  if (config_.enable_prefix_caching && !TableOf(seq).full()) {
    cache_.Remember(seq.request.cache_salt, Computed(seq));
    const bool own = seq.boundary >= BoundaryAfterPrompt(seq);  // not the prompt's state as well
    if (ended && own && cache_.ends_are_unlikely()) {
      cache_.MarkEvictFirst(NamespaceOf(seq), Computed(seq), seq.boundary);
    }
  }
  slots_.GiveSlot(seq.slot);
  seq.slot = -1;
  seq.num_computed = seq.boundary = seq.snapshot = 0;
}

// The sequence goes on from its state at `boundary` and will leave a longer one. The state after
// its prompt is there for those who drop the answer, while there are such.
void Scheduler::MarkEvictFirst(const Sequence& seq, int boundary) {
  if (!config_.enable_prefix_caching) return;
  const bool after_prompt = boundary + TableOf(seq).chunk() == BoundaryAfterPrompt(seq);
  if (after_prompt && !cache_.after_prompts_are_unlikely()) return;
  cache_.MarkEvictFirst(NamespaceOf(seq), Computed(seq), boundary);
}

PrefixCache::Namespace Scheduler::NamespaceOf(const Sequence& seq) const {
  return {seq.request.cache_salt, seq.retention, &TableOf(seq)};
}

PrefixCache::Slot Scheduler::SlotOf(const Sequence& seq) const {
  return {&slots_.table(), seq.slot, seq.boundary};
}

// A token that was processed but is not known (an abort, before the step that drew it is resolved)
// is no part of a state.
std::span<const TokenId> Scheduler::Computed(const Sequence& seq) const {
  return std::span(seq.tokens).first(std::min(seq.num_computed, seq.num_known()));
}

SchedulerStats Scheduler::Stats() const {
  SchedulerStats stats;
  stats.num_running = static_cast<int>(running_.size());
  stats.num_waiting = static_cast<int>(waiting_.size());
  stats.pages_total = pool_.size();
  stats.pages_held = pool_.num_in_sequences();
  stats.pages_cached = pool_.num_evictable();
  for (const Sequence* seq : running_) {
    stats.logical_tokens += seq->num_computed;
    stats.resident_tokens += TableOf(*seq).RetainedSum(seq->boundary) +
                             int64_t{config_.num_groups} * (seq->num_computed - seq->boundary);
    stats.longest_tokens += TableOf(*seq).LongestLength(seq->num_computed);
  }
  stats.resident_tokens /= config_.num_groups;
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

void Scheduler::CheckInvariants() const {
  TANGRAM_CHECK(in_step_.empty(), "CheckInvariants() before Advance()");
  std::vector<int32_t> sequence_refs(pool_.size()), cache_refs(pool_.size());
  for (const Sequence* seq : running_) {
    slots_.CheckInvariants(seq->slot, TableOf(*seq), seq->boundary, seq->num_computed,
                           sequence_refs);
  }
  cache_.CheckInvariants(cache_refs);
  pool_.CheckInvariants(sequence_refs, cache_refs);
  TANGRAM_CHECK(running_.size() + waiting_.size() == sequences_.size(), "{} + {} sequences of {}",
                running_.size(), waiting_.size(), sequences_.size());
}

}  // namespace tangram
