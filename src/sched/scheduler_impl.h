#pragma once

#include <deque>
#include <map>
#include <memory>
#include <span>
#include <unordered_map>
#include <utility>
#include <vector>

#include "paging/page_pool.h"
#include "paging/prefix_cache.h"
#include "sched/scheduler.h"
#include "sched/sequence.h"
#include "sched/slot_pages.h"

namespace tangram {

// scheduler.cc has what comes in and what comes back, scheduling.cc the decisions of a step.
class Scheduler::Impl {
 public:
  Impl(SchedulerConfig config, std::vector<RetentionTable> tables);

  void AddTable(RetentionTable table);
  // Index of the table; -1: none.
  int TableIndex(int percent) const;
  bool Fits(const Request& request) const;
  void Add(Request request);
  bool Abort(RequestId id);
  const SchedulerOutput& Schedule();
  const std::vector<StepResult>& Complete(std::span<const TokenId> sampled);

  bool HasWork() const { return !sequences_.empty(); }
  const PageTable& page_table() const { return slots_.table(); }
  const RetentionTable& table(int index) const { return tables_[index]; }
  const Sequence* Find(RequestId id) const;
  SchedulerStats Stats() const;
  void ClearPrefixCache() { cache_.Clear(); }
  void CheckInvariants() const;

 private:
  const RetentionTable& TableOf(const Sequence& seq) const { return tables_[seq.table]; }
  PrefixCache::Kind KindOf(const Sequence& seq) const;
  PrefixCache::Slot SlotOf(const Sequence& seq) const;
  std::span<const TokenId> Computed(const Sequence& seq) const;
  int64_t PagesAvailable() const { return pool_.num_free() + pool_.num_evictable(); }

  void ScheduleRunning(bool decoding);
  bool TrySchedule(size_t index);
  int StepEnd(const Sequence& seq) const;
  int BoundaryAfterPrompt(const Sequence& seq) const;
  bool MakeRoom(size_t index, int64_t pages);
  void Evict(int64_t pages);
  void Preempt(size_t index);

  void Admit();
  void CountBlocked();
  PrefixCache::Match FindState(const Sequence& seq);
  void Enqueue(Sequence& seq);
  bool CanAdmit(const Sequence& seq, const PrefixCache::Match& match) const;
  int64_t PagesForGrowth(int num_steps) const;
  size_t Start(Sequence& seq, const PrefixCache::Match& match);

  void Advance(Sequence& seq);
  bool Append(Sequence& seq, TokenId token);
  void LeaveState(const Sequence& seq, PrefixCache::Extent extent);
  void LeaveSlot(Sequence& seq, bool ended);
  void RetireState(const Sequence& seq, int boundary);
  void RemoveRunning(const Sequence& seq);

  SchedulerConfig config_;
  std::deque<RetentionTable> tables_;
  PagePool pool_;
  SlotPages slots_;
  PrefixCache cache_;
  std::unordered_map<RequestId, std::unique_ptr<Sequence>> sequences_;
  std::map<std::pair<int, uint64_t>, Sequence*> waiting_;  // by order
  std::vector<Sequence*> running_;                         // by order
  std::vector<Sequence*> in_step_;                         // as in output_
  int budget_ = 0;                                         // tokens that the step may still take
  // The first in the queue, if it found no room and nothing was given back since.
  const Sequence* blocked_ = nullptr;
  // New requests that went on from where an answer ended, and from where a prompt did: by these,
  // the state that is less likely to be asked for is the first to be evicted.
  int64_t hits_at_end_ = 0, hits_after_prompt_ = 0;
  SchedulerOutput output_;
  std::vector<StepResult> results_;
  uint64_t num_arrivals_ = 0, num_preemptions_ = 0, cache_queries_ = 0, cache_hits_ = 0;
  uint64_t compression_runs_ = 0, pages_reclaimed_ = 0;
  AdmissionsBlocked admissions_blocked_;
};

}  // namespace tangram
