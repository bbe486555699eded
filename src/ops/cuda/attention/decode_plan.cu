#include "ops/cuda/attention/decode_plan.h"
#include "ops/cuda/check.h"

namespace tangram::ops::cuda {
namespace {

constexpr int kThreads = 1024;

struct Counts {
  int units;
  int entries;  // that have any unit
};

// `sum` is the warp's, in all lanes. The sum of the warps before; `total` of all.
__device__ Counts SumOfWarpsBefore(Counts sum, Counts* total) {
  __shared__ Counts warp_sums[kThreads / 32];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  if (lane == 0) warp_sums[warp] = sum;
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
  return {__shfl_sync(~0u, scan.units, warp) - sum.units,
          __shfl_sync(~0u, scan.entries, warp) - sum.entries};
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
  int unit_cost;  // of a full unit
  int entry_cost;
  // In shared memory:
  int4* tokens;  // [T] of each: index of retained at its boundary, tokens since then (0: unused),
                 // slot*G
  int2* heads;   // [Hkv] row and column
  int* first_unit;  // [R + 1]
  int* cost;        // [R + 1] of the entries before
};

// What the entries of a token, and of a head, have in common: the divisions are done once.
__device__ void PrepareTokens(const LayerContext& c) {
  const DecodePlanParams& p = c.p;
  for (int t = threadIdx.x; t < p.batch.size; t += kThreads) {
    const int n = p.batch.num_tokens[t];
    const int boundary = n > 0 ? (n - 1) / p.tables.chunk : 0;
    c.tokens[t] = {(p.batch.table[t] * p.tables.num_boundaries + boundary) * p.tables.num_rows,
                   n - boundary * p.tables.chunk, p.batch.slot[t] * p.tables.num_rows, 0};
  }
  if (threadIdx.x < p.num_kv_heads) {
    const int place = c.layer * p.num_kv_heads + threadIdx.x;
    c.heads[threadIdx.x] = {p.head_row[place], p.head_column[place]};
  }
}

// Lengths, units and their prefix sums of the entries. A warp has kPerLane*32 consecutive ones, its
// lanes neighbours, and the loads of all are in flight together.
template <int kPerLane>
__device__ Counts PlanEntries(const LayerContext& c, PlanEntry* out) {
  const DecodePlanParams& p = c.p;
  const int num_entries = p.plan.num_entries;
  const int lane = threadIdx.x % 32;
  const int begin = threadIdx.x / 32 * kPerLane * 32 + lane;
  const float per_token = 1.0f / p.num_kv_heads;
  const int unit_tokens = c.unit_pages * kPageTokens;
  PlanEntry entries[kPerLane];
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    const int entry = min(begin + 32 * i, num_entries - 1);
    const int t = static_cast<int>((entry + 0.5f) * per_token);  // exact below 2^20
    const int4 token = c.tokens[t];
    const int2 head = c.heads[entry - t * p.num_kv_heads];
    const int tokens = token.y > 0 ? p.tables.retained[token.x + head.x] + token.y : 0;
    entries[i] = {0, begin + 32 * i < num_entries ? tokens : 0, token.z + head.x, head.y};
  }
  // Sums before each entry within the warp, then those of the warps before.
  Counts before[kPerLane], sum = {0, 0};
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    const Counts own = {(entries[i].num_tokens + unit_tokens - 1) / unit_tokens,
                        entries[i].num_tokens > 0};
    Counts inclusive = own;
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
      const int units = __shfl_up_sync(~0u, inclusive.units, step);
      const int used = __shfl_up_sync(~0u, inclusive.entries, step);
      if (lane >= step) inclusive.units += units, inclusive.entries += used;
    }
    before[i] = {sum.units + inclusive.units - own.units,
                 sum.entries + inclusive.entries - own.entries};
    sum.units += __shfl_sync(~0u, inclusive.units, 31);
    sum.entries += __shfl_sync(~0u, inclusive.entries, 31);
  }
  Counts total;
  const Counts warps_before = SumOfWarpsBefore(sum, &total);
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    const int entry = begin + 32 * i;
    if (entry >= num_entries) break;
    const int units = warps_before.units + before[i].units;
    entries[i].first_unit = units;
    c.first_unit[entry] = units;
    c.cost[entry] = units * c.unit_cost + (warps_before.entries + before[i].entries) * c.entry_cost;
    out[entry] = entries[i];
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

// Entries cut by a range's border, found at their first inner border: `unit[w]` are the ranges'
// starts.
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

template <int kPerLane>
__global__ void __launch_bounds__(kThreads, 1) DecodePlanKernel(DecodePlanParams p) {
  extern __shared__ int4 shared[];
  const int num_entries = p.plan.num_entries, num_ranges = p.plan.num_ranges;
  const bool invariant = p.mode == SplitMode::kBatchInvariant;
  int4* tokens = shared;
  int2* heads = reinterpret_cast<int2*>(tokens + p.batch.size);
  int* first_unit = reinterpret_cast<int*>(heads + p.num_kv_heads);
  int* cost = first_unit + num_entries + 1;
  int* range_unit = cost + num_entries + 1;
  int* range_entry = range_unit + num_ranges + 1;
  __shared__ int32_t num_splits;
  if (threadIdx.x == 0) num_splits = 0;

  const int layer = blockIdx.x;
  // A batch-invariant unit costs the same whatever its pages: range borders fall between units
  // anyway.
  const LayerContext c = {p,
                          layer,
                          invariant ? kInvariantUnitPages : 1,
                          invariant ? 1 : 4,
                          invariant ? 0 : p.costs.per_entry,
                          tokens,
                          heads,
                          first_unit,
                          cost};
  PrepareTokens(c);
  __syncthreads();
  const Counts total =
      PlanEntries<kPerLane>(c, p.plan.entries + int64_t{layer} * (num_entries + 1));
  __syncthreads();

  const int min_cost = invariant ? 1 : p.costs.min_range;
  const int used = min(num_ranges, (cost[num_entries] + min_cost - 1) / min_cost);
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

template <int kPerLane>
void Launch(const DecodePlanParams& params, cudaStream_t stream) {
  const DecodePlanBuffers& plan = params.plan;
  const size_t shared = sizeof(int4) * params.batch.size + sizeof(int2) * params.num_kv_heads +
                        sizeof(int) * 2 * (plan.num_entries + 1 + plan.num_ranges + 1);
  if (shared > 48 * 1024) {
    TANGRAM_CUDA_CHECK(cudaFuncSetAttribute(DecodePlanKernel<kPerLane>,
                                            cudaFuncAttributeMaxDynamicSharedMemorySize,
                                            static_cast<int>(shared)));
  }
  DecodePlanKernel<kPerLane><<<plan.num_layers, kThreads, shared, stream>>>(params);
  TANGRAM_CUDA_CHECK_LAUNCH();
}

}  // namespace

void RunDecodePlan(const DecodePlanParams& params, cudaStream_t stream) {
  const int per_lane = (params.plan.num_entries + kThreads - 1) / kThreads;
  if (per_lane <= 1) {
    Launch<1>(params, stream);
  } else if (per_lane <= 4) {
    Launch<4>(params, stream);
  } else if (per_lane <= 16) {
    Launch<16>(params, stream);
  } else {
    std::fprintf(stderr, "decode plan: %d entries of a layer, at most %d\n",
                 params.plan.num_entries, 16 * kThreads);
    std::abort();
  }
}

}  // namespace tangram::ops::cuda
