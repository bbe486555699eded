#pragma once

#include <cstdint>
#include <vector>

#include "sched/request.h"

namespace tangram {

// One sequence's part of a step: its tokens [num_computed, num_computed + num_tokens).
struct ScheduledSequence {
  RequestId id = 0;
  int slot = 0;          // index into the page table, [0, max_num_seqs)
  int table = 0;         // index of its retention table
  int num_computed = 0;  // tokens processed before this step
  // The rows are compressed up to here. A cached state may begin at its boundary: with num_computed
  // there, it must not be compressed again.
  int boundary = 0;
  int num_tokens = 0;    // >= 1
  bool samples = false;  // these are its last known tokens: the step gives its next one
};

struct PageCopy {
  int32_t from, to;
};

// Ids of the page table that the device's copy of it lacks: [first, first + count) of a row.
struct PageUpdate {
  int slot, row, first, count;
};

// What one forward step does. Before it, in this order: page updates, then page copies.
struct SchedulerOutput {
  std::vector<ScheduledSequence> sequences;  // decodes first, then prefills
  std::vector<PageUpdate> page_updates;
  std::vector<PageCopy> page_copies;
  std::vector<RequestId> preempted;
  int num_tokens = 0;  // sum over sequences

  bool empty() const { return sequences.empty(); }
  // Keeps the memory.
  void Clear() {
    sequences.clear();
    page_updates.clear();
    page_copies.clear();
    preempted.clear();
    num_tokens = 0;
  }
};

}  // namespace tangram
