#include "ops/cuda/decode_plan.h"

#include "ops/cuda/check.h"
#include "ops/cuda/row_length.cuh"

namespace tangram::ops::cuda {
namespace {

constexpr int kThreads = 1024;

struct Counts {
  int units;
  int entries;  // that have any unit
};

// Exclusive sum over the threads of the block; `total` is the whole.
__device__ Counts BlockExclusiveSum(Counts value, Counts* total) {
  __shared__ Counts warp_sums[kThreads / 32];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  Counts inclusive = value;
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    const int units = __shfl_up_sync(~0u, inclusive.units, step);
    const int entries = __shfl_up_sync(~0u, inclusive.entries, step);
    if (lane >= step) inclusive.units += units, inclusive.entries += entries;
  }
  if (lane == 31) warp_sums[warp] = inclusive;
  __syncthreads();
  // Every warp scans the 32 warp sums itself: one barrier less than a scan by the first warp.
  Counts scan = warp_sums[lane];
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    const int units = __shfl_up_sync(~0u, scan.units, step);
    const int entries = __shfl_up_sync(~0u, scan.entries, step);
    if (lane >= step) scan.units += units, scan.entries += entries;
  }
  *total = {__shfl_sync(~0u, scan.units, 31), __shfl_sync(~0u, scan.entries, 31)};
  const int units_before = __shfl_sync(~0u, scan.units, (warp + 31) % 32);
  const int entries_before = __shfl_sync(~0u, scan.entries, (warp + 31) % 32);
  inclusive.units += (warp > 0 ? units_before : 0) - value.units;
  inclusive.entries += (warp > 0 ? entries_before : 0) - value.entries;
  return inclusive;
}

// Last index i in [0, size) with values[i] <= x; values[0] <= x.
__device__ int LastNotAbove(const int* values, int size, int x) {
  int low = 0, high = size;
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    if (values[middle] <= x) {
      low = middle;
    } else {
      high = middle;
    }
  }
  return low;
}

struct LayerContext {
  const DecodePlanParams& p;
  int layer;
  int unit_pages;
  int unit_cost;    // of a full unit
  int entry_cost;
  int* first_unit;  // shared, [R + 1]
  int* cost;        // shared, [R + 1]: of the entries before
};

// Lengths, units and their prefix sums of the entries, `per_thread` consecutive ones a thread.
__device__ Counts PlanEntries(const LayerContext& c, PlanEntry* out) {
  const DecodePlanParams& p = c.p;
  const int num_entries = p.plan.num_entries;
  const int per_thread = (num_entries + kThreads - 1) / kThreads;
  const int begin = min(static_cast<int>(threadIdx.x) * per_thread, num_entries);
  const int end = min(begin + per_thread, num_entries);
  const int32_t* head_row = p.head_row + c.layer * p.num_kv_heads;
  const int32_t* head_column = p.head_column + c.layer * p.num_kv_heads;
  auto tokens_of = [&](int entry) {
    const int t = entry / p.num_kv_heads;
    return RowLength(p.tables, p.batch.table[t], head_row[entry % p.num_kv_heads],
                     p.batch.num_tokens[t]);
  };
  const int unit_tokens = c.unit_pages * kPageTokens;
  Counts sum = {0, 0};
  for (int entry = begin; entry < end; ++entry) {
    const int tokens = tokens_of(entry);
    c.cost[entry] = tokens;  // kept here until the sums are known
    sum.units += (tokens + unit_tokens - 1) / unit_tokens;
    sum.entries += tokens > 0;
  }
  Counts total;
  Counts before = BlockExclusiveSum(sum, &total);
  for (int entry = begin; entry < end; ++entry) {
    const int tokens = c.cost[entry];
    const int t = entry / p.num_kv_heads, head = entry % p.num_kv_heads;
    c.first_unit[entry] = before.units;
    c.cost[entry] = before.units * c.unit_cost + before.entries * c.entry_cost;
    out[entry] = {before.units, tokens, p.batch.slot[t] * p.tables.num_rows + head_row[head],
                  head_column[head]};
    before.units += (tokens + unit_tokens - 1) / unit_tokens;
    before.entries += tokens > 0;
  }
  if (threadIdx.x == 0) {
    c.first_unit[num_entries] = total.units;
    c.cost[num_entries] = total.units * c.unit_cost + total.entries * c.entry_cost;
    out[num_entries] = {total.units, 0, 0, 0};
  }
  return total;
}

// Where range w of `used` starts, at w/used of the total cost.
__device__ PlanRange RangeStart(const LayerContext& c, int w, int used, int total_units) {
  const int num_entries = c.p.plan.num_entries;
  if (w >= used) return {num_entries, total_units};
  const int target = static_cast<int>(static_cast<int64_t>(c.cost[num_entries]) * w / used);
  const int entry = LastNotAbove(c.cost, num_entries, target);
  const int inside = (target - c.cost[entry] - c.entry_cost) / c.unit_cost;
  return {entry, min(c.first_unit[entry] + max(inside, 0), c.first_unit[entry + 1])};
}

// Entries cut by a range's border, found at their first inner border: `unit[w]` are the ranges' starts.
__device__ void FindSplits(const LayerContext& c, const int* unit, const int* entry_of,
                           PlanSplit* splits, int32_t* num_splits) {
  const int num_ranges = c.p.plan.num_ranges;
  for (int w = threadIdx.x + 1; w < num_ranges; w += kThreads) {
    const int entry = entry_of[w];
    if (entry >= c.p.plan.num_entries) continue;
    const int first = c.first_unit[entry], next = c.first_unit[entry + 1];
    const bool cuts = unit[w] > first && unit[w] < next;
    // An earlier border inside the same entry, or one at the same place, has reported it.
    if (!cuts || unit[w - 1] > first) continue;
    const int last = LastNotAbove(unit, num_ranges, next - 1);
    splits[atomicAdd(num_splits, 1)] = {entry, 2 * (w - 1) + (unit[w - 1] != first), 2 * w,
                                        last - w + 2};
  }
}

__global__ void __launch_bounds__(kThreads) DecodePlanKernel(DecodePlanParams p) {
  extern __shared__ int shared[];
  const int num_entries = p.plan.num_entries, num_ranges = p.plan.num_ranges;
  const bool invariant = p.mode == SplitMode::kBatchInvariant;
  int* first_unit = shared;
  int* cost = first_unit + num_entries + 1;
  int* range_unit = cost + num_entries + 1;
  int* range_entry = range_unit + num_ranges + 1;
  __shared__ int32_t num_splits;
  if (threadIdx.x == 0) num_splits = 0;

  const int layer = blockIdx.x;
  // A batch-invariant unit costs the same whatever its pages: range borders fall between units anyway.
  const LayerContext c = {p, layer, invariant ? kInvariantUnitPages : 1, invariant ? 1 : 4,
                          invariant ? 0 : p.costs.per_entry, first_unit, cost};
  const Counts total = PlanEntries(c, p.plan.entries + int64_t{layer} * (num_entries + 1));
  __syncthreads();

  const int min_units = invariant ? 1 : p.costs.min_pages;
  const int used = min(num_ranges, (total.units + min_units - 1) / min_units);
  PlanRange* ranges = p.plan.ranges + int64_t{layer} * (num_ranges + 1);
  for (int w = threadIdx.x; w <= num_ranges; w += kThreads) {
    const PlanRange range = RangeStart(c, w, used, total.units);
    ranges[w] = range;
    range_unit[w] = range.unit;
    range_entry[w] = range.entry;
  }
  __syncthreads();

  PlanSplit* splits = p.plan.splits + int64_t{layer} * p.plan.max_splits;
  if (invariant) {
    for (int entry = threadIdx.x; entry < num_entries; entry += kThreads) {
      const int first = first_unit[entry], units = first_unit[entry + 1] - first;
      if (units > 1) splits[atomicAdd(&num_splits, 1)] = {entry, first, first + 1, units};
    }
  } else {
    FindSplits(c, range_unit, range_entry, splits, &num_splits);
  }
  __syncthreads();
  if (threadIdx.x == 0) p.plan.num_splits[layer] = num_splits;
}

}  // namespace

void RunDecodePlan(const DecodePlanParams& params, cudaStream_t stream) {
  const size_t shared =
      sizeof(int) * 2 * (params.plan.num_entries + 1 + params.plan.num_ranges + 1);
  if (shared > 48 * 1024) {
    TANGRAM_CUDA_CHECK(cudaFuncSetAttribute(
        DecodePlanKernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared)));
  }
  DecodePlanKernel<<<params.plan.num_layers, kThreads, shared, stream>>>(params);
  TANGRAM_CUDA_CHECK_LAUNCH();
}

}  // namespace tangram::ops::cuda
