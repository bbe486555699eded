#pragma once

#include <cstdint>
#include <vector>

#include "sched/request.h"

namespace tangram {

// One sequence's part of a step: its tokens [num_computed, num_computed + num_tokens).
struct ScheduledSequence {
  RequestId id = 0;
  int slot = 0;          // index into the page table, [0, max_num_seqs)
  int retention = 0;     // index of its retention table
  int num_computed = 0;  // tokens processed before this step
  // The groups are compressed up to here. A cached state may begin at its boundary: with
  // num_computed there, it must not be compressed again.
  int boundary = 0;
  int num_tokens = 0;           // >= 1
  bool decode = false;          // one token, behind a whole prompt
  bool needs_sampling = false;  // these are its last known tokens: the step gives its next one
};

// An entry of the page table (PageTable::Place) gets a page.
struct PageWrite {
  int32_t place, page;
};

struct PageCopy {
  int32_t from, to;
};

// A sequence that the step compresses at a boundary, and the chunk that ends there, for a scorer
// with a pass of its own.
struct ChunkAtBoundary {
  int sequence;  // index into SchedulerOutput::sequences
  std::vector<TokenId> tokens;
};

// What one forward step does; nothing else of the scheduler is needed for it. Before it, in this
// order: page writes, then page copies. Of several writes to a place, which only steps with copies
// have, the last one counts.
struct SchedulerOutput {
  // In place of a token that the step before draws.
  static constexpr TokenId kLastDrawn = -1;

  std::vector<ScheduledSequence> sequences;  // decodes first, then prefills
  std::vector<TokenId> tokens;               // of all sequences, in order
  std::vector<PageWrite> page_writes;
  std::vector<PageCopy> page_copies;
  std::vector<ChunkAtBoundary> chunks;  // with SchedulerConfig::stop_at_boundaries
  std::vector<RequestId> preempted;

  int num_tokens() const { return static_cast<int>(tokens.size()); }
  bool empty() const { return sequences.empty(); }
  // Keeps the memory.
  void Clear() {
    sequences.clear();
    tokens.clear();
    page_writes.clear();
    page_copies.clear();
    chunks.clear();
    preempted.clear();
  }
};

}  // namespace tangram
