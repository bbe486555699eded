#pragma once

#include "ops/cuda/attention/decode_plan.h"

namespace tangram::ops::cuda {

// A run of pages of one entry, within one range: what a block accumulates before it writes a
// result.
struct Segment {
  int entry;
  int first_page, end_page;
  int num_tokens;  // of the entry
  int table_row;
  int column;
  int partial_slot;  // where to leave a partial result; -1: the segment is the whole entry
};

// Walks the segments of one range in order; a warp walks together. Entries are loaded 32 at a time,
// one a lane: at the start of a kernel every load of a chain may wait behind the pages of faster
// blocks.
class SegmentWalker {
 public:
  __device__ SegmentWalker(const LayerPlan& plan, int range)
      : entries_(plan.entries),
        num_entries_(plan.num_entries),
        invariant_(plan.mode == SplitMode::kBatchInvariant),
        range_(range),
        entry_(plan.ranges[range].entry),
        begin_(plan.ranges[range].unit),
        unit_(begin_),
        end_(plan.ranges[range + 1].unit) {
    LoadEntries();
  }

  // False at the end of the range.
  __device__ bool Next(Segment* segment) {
    if (unit_ >= end_) return false;
    const int unit_pages = invariant_ ? kInvariantUnitPages : 1;
    PlanEntry info;
    int pages, next_first;
    while (true) {
      info = Get(entry_);
      pages = (info.num_tokens + kPageTokens - 1) / kPageTokens;
      next_first = info.first_unit + (pages + unit_pages - 1) / unit_pages;
      if (next_first > unit_) break;
      ++entry_;
      if (entry_ == loaded_ + 32) LoadEntries();
    }
    const int stop = invariant_ ? unit_ + 1 : min(end_, next_first);
    segment->entry = entry_;
    segment->first_page = (unit_ - info.first_unit) * unit_pages;
    segment->end_page = min(pages, (stop - info.first_unit) * unit_pages);
    segment->num_tokens = info.num_tokens;
    segment->table_row = info.table_row;
    segment->column = info.column;
    const bool whole = unit_ == info.first_unit && stop == next_first;
    const int slot = invariant_ ? unit_ : 2 * range_ + (unit_ != begin_);
    segment->partial_slot = whole ? -1 : slot;
    unit_ = stop;
    return true;
  }

 private:
  __device__ void LoadEntries() {
    loaded_ = entry_;
    const int lane = threadIdx.x % 32;
    mine_ = *reinterpret_cast<const int4*>(entries_ + min(loaded_ + lane, num_entries_));
  }
  __device__ PlanEntry Get(int entry) const {
    const int lane = entry - loaded_;
    return {__shfl_sync(~0u, mine_.x, lane), __shfl_sync(~0u, mine_.y, lane),
            __shfl_sync(~0u, mine_.z, lane), __shfl_sync(~0u, mine_.w, lane)};
  }

  const PlanEntry* entries_;
  int num_entries_;
  bool invariant_;
  int range_;
  int entry_;
  int begin_, unit_, end_;
  int loaded_;  // first of the entries that the lanes hold
  int4 mine_;
};

}  // namespace tangram::ops::cuda
