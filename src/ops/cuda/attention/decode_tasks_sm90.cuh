#pragma once

#include "ops/cuda/attention/decode_attention.h"
#include "ops/cuda/attention/decode_segments.cuh"

// Which pages each warp of the Hopper kernel (decode_sm90.cu) reads, and in which order.
namespace tangram::ops::cuda::decode_sm90 {

constexpr int kWarps = 8;
constexpr int kSoloPages = 4;  // of a segment that one warp does alone

// A warp's part of a segment: pages first_page, first_page + step, ... A short segment is one
// warp's alone, a longer one is dealt to all warps of the block, page by page. Turns go round over
// the whole range, so that short segments keep all warps busy; sums are made in relative order, so
// their bits depend on the segment alone.
struct Task {
  Segment segment;
  bool solo;
  int first_page, step;
  int first_warp;  // the one that took the segment's first page
};

// Walks the tasks of one warp in order; the whole block passes the same shared segments in the same
// order.
class TaskWalker {
 public:
  __device__ TaskWalker(const LayerPlan& plan, int range, int warp)
      : walker_(plan, range), warp_(warp) {}

  __device__ bool Next(Task* task) {
    while (walker_.Next(&task->segment)) {
      const int pages = task->segment.end_page - task->segment.first_page;
      const int relative = (warp_ - turn_) & (kWarps - 1);
      task->solo = pages <= kSoloPages;
      task->step = task->solo ? 1 : kWarps;
      task->first_page = task->segment.first_page + (task->solo ? 0 : relative);
      task->first_warp = turn_ & (kWarps - 1);
      turn_ += task->solo ? 1 : pages;
      if (!task->solo || relative == 0) return true;
    }
    return false;
  }

 private:
  SegmentWalker walker_;
  int warp_;
  int turn_ = 0;
};

// The order in which a warp's pages are copied; runs ahead of the arithmetic. Page ids are read 32
// at a time, one a lane, and a batch ahead.
class PageFeed {
 public:
  __device__ PageFeed(const DecodeAttentionParams& p, int range)
      : kv_(p.kv), walker_(p.plan, range, threadIdx.x / 32), lane_(threadIdx.x % 32) {
    NextTask();
    LoadBatch();
  }

  // The next virtual page, the same in all lanes, or -1. `last`: it ends its row, where this step's
  // token is.
  __device__ int Next(bool* last) {
    if (position_ == 32) {
      page_ = next_id_ < 0 ? -1 : next_id_ * kv_.group_size + next_column_;
      last_ = next_last_;
      LoadBatch();
      position_ = 0;
    }
    *last = last_ >> position_ & 1;
    return __shfl_sync(~0u, page_, position_++);
  }

 private:
  __device__ void NextTask() {
    more_ = walker_.Next(&task_);
    next_page_ = task_.first_page;
  }
  // One load for the whole batch, whatever segments it spans.
  __device__ void LoadBatch() {
    const int32_t* id = nullptr;
    bool last = false;
    for (int filled = 0; filled < 32 && more_;) {
      const Segment& segment = task_.segment;
      const int left = (segment.end_page - next_page_ + task_.step - 1) / task_.step;
      const int take = max(0, min(32 - filled, left));
      if (lane_ >= filled && lane_ < filled + take) {
        const int page = next_page_ + (lane_ - filled) * task_.step;
        id = kv_.page_table + int64_t{segment.table_row} * kv_.max_pages_per_row + page;
        next_column_ = segment.column;
        last = (page + 1) * kPageTokens >= segment.num_tokens;
      }
      filled += take;
      next_page_ += take * task_.step;
      if (next_page_ >= segment.end_page) NextTask();
    }
    next_id_ = id != nullptr ? *id : -1;
    next_last_ = __ballot_sync(~0u, last);
  }

  const KvView& kv_;
  TaskWalker walker_;
  Task task_ = {};
  bool more_;
  int lane_;
  int next_page_;
  int position_ = 32;
  int page_ = -1, next_id_, next_column_ = 0;
  unsigned last_ = 0, next_last_ = 0;
};

}  // namespace tangram::ops::cuda::decode_sm90
