#pragma once

#include "ops/cuda/decode_plan.h"

namespace tangram::ops::cuda {

// A run of pages of one entry, within one range: what a block accumulates before it writes a result.
struct Segment {
  int entry;
  int first_page, end_page;
  int num_tokens;  // of the entry
  int table_row;
  int column;
  int partial_slot;  // where to leave a partial result; -1: the segment is the whole entry
};

// Walks the segments of one range in order. All threads that walk the same range see the same.
class SegmentWalker {
 public:
  __device__ SegmentWalker(const LayerPlan& plan, int range)
      : entries_(plan.entries),
        invariant_(plan.mode == SplitMode::kBatchInvariant),
        range_(range),
        entry_(plan.ranges[range].entry),
        begin_(plan.ranges[range].unit),
        unit_(begin_),
        end_(plan.ranges[range + 1].unit) {
    if (unit_ < end_) info_ = Load(entry_), next_first_ = entries_[entry_ + 1].first_unit;
  }

  // False at the end of the range.
  __device__ bool Next(Segment* segment) {
    if (unit_ >= end_) return false;
    while (next_first_ <= unit_) {
      ++entry_;
      info_ = Load(entry_);
      next_first_ = entries_[entry_ + 1].first_unit;
    }
    const int unit_pages = invariant_ ? kInvariantUnitPages : 1;
    const int stop = invariant_ ? unit_ + 1 : min(end_, next_first_);
    const int pages = (info_.num_tokens + kPageTokens - 1) / kPageTokens;
    segment->entry = entry_;
    segment->first_page = (unit_ - info_.first_unit) * unit_pages;
    segment->end_page = min(pages, (stop - info_.first_unit) * unit_pages);
    segment->num_tokens = info_.num_tokens;
    segment->table_row = info_.table_row;
    segment->column = info_.column;
    const bool whole = unit_ == info_.first_unit && stop == next_first_;
    const int slot = invariant_ ? unit_ : 2 * range_ + (unit_ != begin_);
    segment->partial_slot = whole ? -1 : slot;
    unit_ = stop;
    return true;
  }

 private:
  __device__ PlanEntry Load(int entry) const {
    const int4 raw = *reinterpret_cast<const int4*>(entries_ + entry);
    return {raw.x, raw.y, raw.z, raw.w};
  }

  const PlanEntry* entries_;
  bool invariant_;
  int range_;
  int entry_;
  int begin_, unit_, end_;
  PlanEntry info_;
  int next_first_;
};

}  // namespace tangram::ops::cuda
