#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "paging/head_group_map.h"
#include "paging/page_table.h"
#include "paging/retention_table.h"
#include "sched/request.h"
#include "sched/scheduler_output.h"

namespace tangram {

struct SchedulerConfig {
  int max_num_seqs = 64;             // running at once; slots of the page table
  int max_num_batched_tokens = 512;  // of a step
  int max_model_len = 0;
  int page_size = 16;  // B
  int num_rows = 0;    // G
  int64_t num_pages = 0;
  bool enable_prefix_caching = true;
  bool priority_policy = false;  // else first come, first served
  int window = 0;                // w: last tokens of a row that the next compression may move
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
  int64_t resident_tokens = 0;    // sum of row lengths / G
  int64_t longest_tokens = 0;     // sum of the lengths of each sequence's longest row
  uint64_t compression_runs = 0;  // boundaries at which a sequence was compressed
  uint64_t pages_reclaimed = 0;   // that compression gave back
  AdmissionsBlocked blocked;
  uint64_t num_preemptions = 0;
  uint64_t prefix_cache_queries = 0;  // tokens
  uint64_t prefix_cache_hits = 0;     // tokens
  int64_t cached_ends = 0;            // token sequences that the cache keeps, each to its own end
  uint64_t cached_ends_evicted = 0, cached_ends_cleared = 0;
};

// What became of a sequence in a step.
struct StepResult {
  RequestId id;
  TokenId token;
  bool finished;
  FinishReason reason;      // when finished
  TokenId stop_token = -1;  // the id that stopped it, when it did
};

// Decides, step by step, which tokens of which sequences are processed and in which pages their KV
// lies. Pure integers: no model, no clock; the same calls give the same decisions.
class Scheduler {
 public:
  explicit Scheduler(SchedulerConfig config, std::vector<RetentionTable> tables);
  Scheduler(Scheduler&&) noexcept;
  ~Scheduler();

  // Tables are told apart by their percent; the first keeps everything. All have the same chunk,
  // and know max_model_len.
  void AddTable(RetentionTable table);
  bool HasTable(int percent) const;
  // Whether a request can ever run: its peak fits the pool. Checked before Add.
  bool Fits(const Request& request) const;
  // Queues the request. Its id is new, its ratio has a table.
  void Add(Request request);
  // Ends a request, waiting or running; its state stays in the prefix cache. False: not known (any
  // more).
  bool Abort(RequestId id);
  // The next step; empty if nothing can run. Every Schedule() with sequences is followed by one
  // Complete().
  const SchedulerOutput& Schedule();
  // Tells the tokens sampled in that step, one for each sequence with `samples`, in order, and
  // returns what became of those sequences. Aborts between Schedule and Complete are honoured: such
  // a sequence gives no result.
  const std::vector<StepResult>& Complete(std::span<const TokenId> sampled);

  bool HasWork() const;
  const PageTable& page_table() const;
  const RetentionTable& table(int index) const;
  // All known tokens of a sequence, prompt first. Valid until the next call.
  std::span<const TokenId> Tokens(RequestId id) const;
  // Tokens of the prompt that the prefix cache gave when the request first ran.
  int NumCachedTokens(RequestId id) const;
  SchedulerStats Stats() const;
  // Drops every cached prefix that no running sequence holds.
  void ClearPrefixCache();
  // Aborts with a message if an invariant is broken: the page equation, reference counts, free
  // list. Between steps. O(pages).
  void CheckInvariants() const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace tangram
