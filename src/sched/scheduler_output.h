#pragma once

#include <cstdint>
#include <vector>

#include "sched/request.h"

namespace tangram {

// One sequence's part of a step: its tokens [num_computed, num_computed + num_tokens).
struct ScheduledSequence {
  RequestId id;
  int slot;          // index into the page table, [0, max_num_seqs)
  int table;         // index of its retention table
  int num_computed;  // tokens processed before this step
  int boundary;    // the rows are compressed up to here; num_computed may be there too, in a cached
                   // state
  int num_tokens;  // >= 1
  bool samples;    // these are its last known tokens: the step gives its next one
};

struct PageCopy {
  int32_t from, to;
};

// A page id that the device's copy of the page table lacks.
struct PageUpdate {
  int slot, row, index;
  int32_t page;
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
