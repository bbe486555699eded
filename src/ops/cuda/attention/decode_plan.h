#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "ops/cuda/kv_view.h"

namespace tangram::ops::cuda {

// The ahead-of-time balance of decode attention (stream-K over virtual pages). In each layer an
// entry is e = t*Hkv + h: token t, KV head h; its pages are counted in units. Range w, the work of
// one persistent thread block, is the units [ranges[w].unit, ranges[w+1].unit) in entry order; all
// ranges cost the same to one unit.

struct alignas(16) PlanEntry {
  int32_t first_unit;  // units of the entries before it
  int32_t num_tokens;  // length of its row; 0: nothing to do
  int32_t table_row;   // slot*G + row: index into the page table's rows
  int32_t column;
};

struct PlanRange {
  int32_t entry;  // the one that holds `unit`
  int32_t unit;
};

// An entry cut into several segments. Each leaves a partial result in a slot: the first segment's,
// then next_slot, next_slot + 2, ... (+ 1 in batch-invariant mode).
struct PlanSplit {
  int32_t entry;
  int32_t first_slot;
  int32_t next_slot;
  int32_t num_slots;
};

// Ways to cut. Equal ranges: a unit is a page, W ranges. Batch-invariant: a unit is 64 pages of one
// entry and every unit has a partial of its own, so that an entry's sum does not depend on its
// neighbours.
enum class SplitMode { kEqualRanges, kBatchInvariant };
constexpr int kInvariantUnitPages = 64;

// Costs in quarters of a page, fitted offline to the card (H100; docs/measurements.md).
struct PlanCosts {
  int per_entry = 96;  // its loads behind the pages of other blocks, merging and writing a result
  int min_range =
      32;  // less is not worth a block; at least 16, so that ranges inside an entry are not empty
};

// The plan of one layer.
struct LayerPlan {
  const PlanEntry* entries;  // [T*Hkv + 1]; the last holds the total in first_unit
  const PlanRange* ranges;   // [W + 1]
  const PlanSplit* splits;   // [*num_splits]
  const int32_t* num_splits;
  int num_entries;
  int num_ranges;  // W
  SplitMode mode;
};

// Memory and shape of the plans of all layers.
struct DecodePlanBuffers {
  PlanEntry* entries;   // [L][T*Hkv + 1]
  PlanRange* ranges;    // [L][W + 1]
  PlanSplit* splits;    // [L][max_splits]
  int32_t* num_splits;  // [L]
  int num_layers;
  int num_entries;  // T*Hkv
  int num_ranges;   // W: the grid of the attention kernel
  int max_splits;

  LayerPlan layer(int index, SplitMode mode) const {
    return {entries + int64_t{index} * (num_entries + 1),
            ranges + int64_t{index} * (num_ranges + 1),
            splits + int64_t{index} * max_splits,
            num_splits + index,
            num_entries,
            num_ranges,
            mode};
  }
};

struct DecodePlanParams {
  DecodeBatch batch;
  RetainedTables tables;
  const int32_t* head_row;     // [L][Hkv]
  const int32_t* head_column;  // [L][Hkv]
  int num_kv_heads;
  SplitMode mode;
  PlanCosts costs;
  DecodePlanBuffers plan;
};

// The splits a layer can have: the inner borders of W ranges, or every entry.
constexpr int MaxSplits(SplitMode mode, int num_entries, int num_ranges) {
  return mode == SplitMode::kEqualRanges ? num_ranges : num_entries;
}
// Partial results a layer can have. `max_units`: of all entries together, in batch-invariant mode.
constexpr int64_t MaxPartials(SplitMode mode, int num_ranges, int64_t max_units) {
  return mode == SplitMode::kEqualRanges ? 2 * int64_t{num_ranges} : max_units;
}

// Plans all layers in one launch, one block a layer. Reads and writes device memory only; may be
// captured.
void RunDecodePlan(const DecodePlanParams& params, cudaStream_t stream);

}  // namespace tangram::ops::cuda
