#pragma once

#include "ops/cuda/sampling/slice.cuh"

// The tokens of a row within some distance of its best score: as many as are wanted, or with as
// much mass. Distances and masses are whole numbers, so that no order of summation, and thus no
// number of blocks, can be seen.

namespace tangram::ops::cuda::sampling {

constexpr int kBins = 2048;
constexpr int kListed = kThreads;
constexpr uint32_t kNone = ~0u;
// A distance of 32 but for one bin, which is the last one. What is so far off is never drawn in
// practice, so it need not be told apart.
constexpr uint32_t kFarthest = (kBins - 1) << 21;

struct Histogram {
  uint32_t count[kBins];
  uint32_t low[kBins], high[kBins];  // halves of masses: a 64-bit atomic in shared memory is a loop
};

// Tokens that are few enough for each to be compared with all others.
struct List {
  float value[kListed];
  int token[kListed];
};

struct Sums {
  uint32_t count;
  Wide mass;
};

struct Found {
  uint32_t bin;  // kNone: all together are less than what is wanted
  Sums before;
  uint32_t count_through;
  Wide wanted;
};

// In dynamic shared memory, since a slice lies behind it.
struct alignas(16) Shared {
  SamplingRow row;
  Partials partials;
  Sums of_warp[kWarps];
  Found found;
  uint32_t num_listed, listed_by[kMostBlocks];
  List mine, all;
  // Of `all`. The histogram is done by then.
  union {
    Histogram bins;
    struct {
      uint32_t distance[kListed];
      Wide mass[kListed];
    } listed;
  };
};

// A row's scores, logit / divisor, below the best of them, which is finite.
struct Scores {
  Slice slice;
  float divisor, best;

  // In steps of 2^-27, kFarthest at most. Exact order: the subtraction is monotone and the rest is
  // a power of two.
  __device__ __forceinline__ uint32_t Distance(float score) const {
    return __float2uint_rz(fminf((best - score) * 0x1p27f, static_cast<float>(kFarthest)));
  }
  // The probability relative to the best, in units of 2^-40.
  __device__ __forceinline__ Wide Mass(float score) const {
    return __float2ull_rn(expf(score - best) * 0x1p40f);
  }
  template <class F>
  __device__ __forceinline__ void ForEachWithin(uint32_t limit, const F& f) const {
    ForEach(slice, divisor, [&](float score, int token) {
      if (!(score > -INFINITY)) return;
      const uint32_t distance = Distance(score);
      if (distance <= limit) f(score, token, distance);
    });
  }
};

// What is looked for: the smallest distance within which tokens count `wanted`, or weigh it.
struct Goal {
  bool by_mass;
  Wide wanted;  // 0: `share` of the mass of all
  float share = 0;
};

// In whole numbers, at least 1.
__device__ __forceinline__ Wide ShareOf(Wide mass, float share) {
  const double part = static_cast<double>(mass) * static_cast<double>(share);
  return min(mass, max(Wide{1}, __double2ull_ru(part)));
}

// Those whose distance has `prefix` in the bits of `mask`, by the bits that follow, from `shift`
// on.
struct Level {
  uint32_t prefix, mask;
  int shift;
};

__device__ inline void FillHistogram(const Scores& scores, uint32_t limit, const Level& level,
                                     bool masses, Histogram& bins) {
  for (int i = threadIdx.x; i < kBins; i += kThreads) {
    bins.count[i] = bins.low[i] = bins.high[i] = 0;
  }
  __syncthreads();
  // Where scores are spread widely most are farthest, which one counter a thread keeps from being a
  // queue. Their mass is below a half.
  uint32_t far = 0;
  scores.ForEachWithin(limit, [&](float score, int, uint32_t distance) {
    if ((distance & level.mask) != level.prefix) return;
    const uint32_t bin = (distance ^ level.prefix) >> level.shift;
    if (level.mask == 0 && bin == kBins - 1) {
      ++far;
      return;
    }
    atomicAdd(&bins.count[bin], 1u);
    if (!masses) return;
    const Wide mass = scores.Mass(score);
    const uint32_t low = static_cast<uint32_t>(mass), before = atomicAdd(&bins.low[bin], low);
    const uint32_t carry = before + low < before ? 1 : 0;
    const uint32_t high = static_cast<uint32_t>(mass >> 32) + carry;
    if (high != 0) atomicAdd(&bins.high[bin], high);
  });
  far = __reduce_add_sync(~0u, far);
  if (threadIdx.x % 32 == 0 && far != 0) atomicAdd(&bins.count[kBins - 1], far);
}

// Of the bin in the block of that rank; the mass if it is wanted.
__device__ __forceinline__ Sums ReadBin(const Team& team, const Histogram& bins, bool masses,
                                        int bin, unsigned rank) {
  const uint32_t count = team.Read(bins.count[bin], rank);
  if (!masses) return {count, 0};
  return {count, team.Read(bins.low[bin], rank) + (Wide{team.Read(bins.high[bin], rank)} << 32)};
}

// Adds up the blocks' histograms: each block its share of the bins, in its own. They may be read
// when all have met again.
__device__ inline void AddHistograms(const Team& team, bool masses, Histogram& bins) {
  const int share = kBins / team.size, first = team.rank * share;
  for (int i = first + threadIdx.x; i < first + share; i += kThreads) {
    Sums all{0, 0};
#pragma unroll 4
    for (unsigned r = 0; r < team.size; ++r) {
      const Sums bin = ReadBin(team, bins, masses, i, r);
      all.count += bin.count, all.mass += bin.mass;
    }
    bins.count[i] = all.count;
    bins.low[i] = static_cast<uint32_t>(all.mass);
    bins.high[i] = static_cast<uint32_t>(all.mass >> 32);
  }
}

// Of the threads before this one; and of all.
__device__ inline Sums SumsBefore(const Sums& mine, Shared& shared, Sums* all) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  Sums before = mine;
#pragma unroll
  for (int offset = 1; offset < 32; offset *= 2) {
    const uint32_t count = __shfl_up_sync(~0u, before.count, offset);
    const Wide mass = __shfl_up_sync(~0u, before.mass, offset);
    if (lane >= offset) before.count += count, before.mass += mass;
  }
  if (lane == 31) shared.of_warp[warp] = before;
  before.count -= mine.count, before.mass -= mine.mass;
  __syncthreads();
  *all = {0, 0};
  for (int w = 0; w < kWarps; ++w) {
    const Sums sums = shared.of_warp[w];
    if (w < warp) before.count += sums.count, before.mass += sums.mass;
    all->count += sums.count, all->mass += sums.mass;
  }
  return before;
}

// The bin in which the goal is reached. `at` has what lies before the level, and gets what lies
// before that bin; at the first level a share of the mass becomes a number.
__device__ inline void FindBin(const Team& team, const Goal& goal, Shared& shared, Found& at) {
  constexpr int kEach = kBins / kThreads;
  team.Sync();
  if (team.size > 1) {
    AddHistograms(team, goal.by_mass, shared.bins);
    team.Sync();
  }
  const int first = threadIdx.x * kEach;
  Sums bin[kEach], mine{0, 0}, all;
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    bin[i] = ReadBin(team, shared.bins, goal.by_mass, first + i, first / (kBins / team.size));
    mine.count += bin[i].count, mine.mass += bin[i].mass;
  }
  if (threadIdx.x == 0) shared.found.bin = kNone;
  Sums before = SumsBefore(mine, shared, &all);
  before.count += at.before.count, before.mass += at.before.mass;
  if (at.wanted == 0) at.wanted = ShareOf(all.mass, goal.share);
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    const Sums through = {before.count + bin[i].count, before.mass + bin[i].mass};
    const bool reached_before = (goal.by_mass ? before.mass : before.count) >= at.wanted;
    const bool reached = (goal.by_mass ? through.mass : through.count) >= at.wanted;
    if (reached && !reached_before) {
      shared.found = {static_cast<uint32_t>(first + i), before, through.count, at.wanted};
    }
    before = through;
  }
  team.Sync();  // also: all have read all histograms
  if (shared.found.bin == kNone) {
    at.bin = kNone, at.count_through = at.before.count + all.count;
  } else {
    at = shared.found;
  }
}

struct Cut {
  uint32_t limit;  // the tokens that are looked for are within it
  bool listed;     // it may let others through, but all together are no more than kListed
  Wide wanted;     // the goal as a number
};

__device__ inline Cut SelectWithin(const Team& team, const Scores& scores, uint32_t limit,
                                   const Goal& goal, Shared& shared) {
  Level level{0, 0, 0};
  Found at{kNone, {0, 0}, 0, goal.wanted};
  for (int pass = 0; pass < 3; ++pass) {
    level.shift = pass == 0 ? 21 : pass == 1 ? 10 : 0;
    FillHistogram(scores, limit, level, goal.by_mass, shared.bins);
    FindBin(team, goal, shared, at);
    const bool listed = at.count_through <= kListed;
    if (at.bin == kNone) return {limit, listed, at.wanted};
    level.prefix |= at.bin << level.shift;
    level.mask = ~((1u << level.shift) - 1);
    const uint32_t last = level.prefix | ~level.mask;
    if (listed || level.prefix == kFarthest) return {min(limit, last), listed, at.wanted};
  }
  return {level.prefix, false, at.wanted};
}

// Puts the tokens within the limit, kListed at most, into shared.all of every block; returns how
// many there are. Their order is any.
__device__ inline int ListWithin(const Team& team, const Scores& scores, uint32_t limit,
                                 Shared& shared) {
  if (threadIdx.x == 0) shared.num_listed = 0;
  __syncthreads();
  scores.ForEachWithin(limit, [&](float score, int token, uint32_t) {
    const uint32_t i = atomicAdd(&shared.num_listed, 1u);
    shared.mine.value[i] = score, shared.mine.token[i] = token;
  });
  team.Sync();
  if (threadIdx.x < team.size) {
    shared.listed_by[threadIdx.x] = team.Read(shared.num_listed, threadIdx.x);
  }
  __syncthreads();
  uint32_t at = threadIdx.x, total = 0;
  unsigned from = kMostBlocks;
  for (unsigned r = 0; r < team.size; ++r) {
    const uint32_t count = shared.listed_by[r];
    if (from == kMostBlocks && at < count) from = r;
    if (from == kMostBlocks) at -= count;
    total += count;
  }
  if (from < kMostBlocks) {
    const List& mine = shared.mine;
    shared.all.value[threadIdx.x] = team.Read(mine.value[at], from);
    shared.all.token[threadIdx.x] = team.Read(mine.token[at], from);
  }
  team.Sync();  // nobody reads another's list any more
  return static_cast<int>(total);
}

}  // namespace tangram::ops::cuda::sampling
