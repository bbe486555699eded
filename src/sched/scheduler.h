#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <span>
#include <unordered_map>
#include <utility>
#include <vector>

#include "paging/page_pool.h"
#include "paging/prefix_cache.h"
#include "paging/retention_table.h"
#include "sched/request.h"
#include "sched/scheduler_output.h"
#include "sched/sequence.h"
#include "sched/sequence_pages.h"

namespace tangram {

struct SchedulerConfig {
  int max_num_seqs = 64;             // running at once; slots of the page table
  int max_num_batched_tokens = 512;  // of a step
  int max_model_len = 0;
  int page_size = 16;  // B
  int num_groups = 0;  // G
  int64_t num_pages = 0;
  int max_pages = 0;  // of a group in the page table; 0: what max_model_len needs
  bool enable_prefix_caching = true;
  bool priority_policy = false;  // else first come, first served
  int window = 0;                // w: last tokens of a group that the next compression may move
  int lookback = 0;  // last tokens of a chunk that its scorer must see processed: cached states end
                     // before them
  bool stop_at_boundaries = false;  // a scorer needs a pass of its own there: no step goes beyond
};

// Steps in which the first of the queue was not admitted, by what it lacked: pages, a slot, or
// tokens of the step.
struct AdmissionsBlocked {
  uint64_t pages = 0, slots = 0, tokens = 0;
};

// Numbers for metrics; totals since the start.
struct SchedulerStats {
  int num_running = 0;
  int num_waiting = 0;
  int64_t pages_total = 0;
  int64_t pages_held = 0;         // by running sequences
  int64_t pages_cached = 0;       // by cache entries alone: evictable
  int64_t pages_reserved = 0;     // free or cached, but for prompts that are being processed
  int64_t logical_tokens = 0;     // of running sequences
  int64_t resident_tokens = 0;    // sum of group lengths / G
  int64_t longest_tokens = 0;     // sum of the lengths of each sequence's longest group
  uint64_t compression_runs = 0;  // boundaries at which a sequence was compressed
  uint64_t pages_reclaimed = 0;   // that compression gave back
  AdmissionsBlocked blocked;
  uint64_t num_preemptions = 0;
  uint64_t prefix_cache_queries = 0;  // tokens
  uint64_t prefix_cache_hits = 0;     // tokens
  int64_t cached_ends = 0;            // token sequences that the cache keeps, each to its own end
  uint64_t cached_ends_evicted = 0, cached_ends_cleared = 0;
};

// What became of a sequence whose token was drawn.
struct StepResult {
  RequestId id;
  int row;  // of the tokens that were drawn
  TokenId token;
  bool finished;
  FinishReason reason;        // when finished
  TokenId stop_token = -1;    // the id that stopped it, when it did
  int num_cached_tokens = 0;  // of the prompt, that the prefix cache gave when it first ran
};

// Decides, step by step, which tokens of which sequences are processed and in which pages their KV
// lies. Pure integers: no model, no clock; the same calls give the same decisions.
//
// A step goes through three calls: Schedule decides it, Advance counts its tokens as processed once
// it is queued on the device, Resolve takes the tokens that it drew. The next step may be scheduled
// before the last one is resolved: then the last token of each of its sequences is not known yet.
// The device works in order, so pages that are given back may be taken at once.
class Scheduler {
 public:
  // Tables are told apart by their percent; the first keeps everything. All have the same chunk,
  // and know max_model_len.
  Scheduler(SchedulerConfig config, std::vector<RetentionTable> tables);
  Scheduler(const Scheduler&) = delete;

  // Queues a request. Its id is new, its ratio has a table.
  void Add(Request request);
  // Ends a request, waiting or running; its state stays in the prefix cache. Not between Schedule
  // and Advance. False: not known (any more).
  bool Abort(RequestId id);
  // The next step; empty if nothing can run. Every Schedule() with sequences is followed by one
  // Advance().
  const SchedulerOutput& Schedule();
  void Advance();
  // Tells the tokens drawn in the oldest step that is not resolved, one for each sequence with
  // `needs_sampling`, in order; -1: none could be drawn, the request ends and its pages are thrown
  // away. Returns what became of those sequences that were not aborted since.
  const std::vector<StepResult>& Resolve(std::span<const TokenId> drawn);

  bool HasWork() const { return !sequences_.empty() || !steps_.empty(); }
  // Steps that are advanced and not resolved.
  int num_in_flight() const { return static_cast<int>(steps_.size()); }
  SchedulerStats Stats() const;
  // Drops every cached prefix that no running sequence holds.
  void ClearPrefixCache() { cache_.Clear(); }
  // Aborts with a message if an invariant is broken: the page equation, reference counts, free
  // list. Not between Schedule and Advance. O(pages).
  void CheckInvariants() const;

 private:
  void AddTable(RetentionTable table);
  const RetentionTable& TableOf(const Sequence& seq) const { return tables_[seq.retention]; }
  PrefixCache::Namespace NamespaceOf(const Sequence& seq) const;
  PrefixCache::Slot SlotOf(const Sequence& seq) const;
  // The tokens that are known and processed.
  std::span<const TokenId> Computed(const Sequence& seq) const;
  int64_t PagesAvailable() const { return pool_.num_free() + pool_.num_evictable(); }

  // scheduling.cc: the decisions of a step.
  void ScheduleRunning(bool decoding);
  bool WillEnd(const Sequence& seq) const;
  bool TrySchedule(size_t index, bool decode);
  void AppendToOutput(Sequence& seq, int end, bool decode);
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

  // scheduler.cc: what comes in and what comes back.
  void Advance(Sequence& seq);
  void Append(Sequence& seq, TokenId token, StepResult& result);
  void End(Sequence& seq, bool keep_state);
  void CachePrefix(const Sequence& seq, PrefixCache::Extent extent);
  void ReleaseSlot(Sequence& seq, bool ended);
  void MarkEvictFirst(const Sequence& seq, int boundary);

  SchedulerConfig config_;
  std::vector<RetentionTable> tables_;
  PagePool pool_;  // slots and cache point to it
  SequencePages slots_;
  PrefixCache cache_;
  std::unordered_map<RequestId, std::unique_ptr<Sequence>> sequences_;
  std::map<std::pair<int, uint64_t>, Sequence*> waiting_;  // by order
  std::vector<Sequence*> running_;                         // by order
  std::vector<Sequence*> in_step_;                         // as in output_
  std::deque<std::vector<RequestId>> steps_;  // in flight: those that draw a token, in order
  int budget_ = 0;                            // tokens that the step may still take
  // The first in the queue, if it found no room and nothing was given back since.
  const Sequence* blocked_ = nullptr;
  SchedulerOutput output_;
  std::vector<StepResult> results_;
  uint64_t num_arrivals_ = 0, num_preemptions_ = 0, cache_queries_ = 0, cache_hits_ = 0;
  uint64_t compression_runs_ = 0, pages_reclaimed_ = 0;
  AdmissionsBlocked admissions_blocked_;
};

}  // namespace tangram
