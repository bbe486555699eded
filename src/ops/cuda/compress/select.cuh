#pragma once

#include <cstdint>

// Selection by one block of kSelectThreads: the best of some scores, of equal ones the later.

namespace tangram::ops::cuda {

constexpr int kSelectThreads = 512;
constexpr int kSelectWarps = kSelectThreads / 32;
constexpr int kBins = 2048;

// A float as an integer of the same order; NaN lowest.
__device__ inline uint32_t OrderedKey(float score) {
  if (isnan(score)) return 0;
  const uint32_t bits = __float_as_uint(score);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

struct Pair {
  int a, b;
};

// Exclusive sums over the threads of the block, and the totals.
__device__ inline Pair BlockExclusiveSum(Pair value, Pair* total) {
  __shared__ Pair warp_sums[kSelectWarps];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  Pair sum = value;
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    const int a = __shfl_up_sync(~0u, sum.a, step), b = __shfl_up_sync(~0u, sum.b, step);
    if (lane >= step) sum.a += a, sum.b += b;
  }
  __syncthreads();  // the previous use of warp_sums
  if (lane == 31) warp_sums[warp] = sum;
  __syncthreads();
  Pair before = {0, 0}, all = {0, 0};
#pragma unroll
  for (int w = 0; w < kSelectWarps; ++w) {
    if (w < warp) before.a += warp_sums[w].a, before.b += warp_sums[w].b;
    all.a += warp_sums[w].a, all.b += warp_sums[w].b;
  }
  *total = all;
  return {before.a + sum.a - value.a, before.b + sum.b - value.b};
}

// The keep-th largest of `keys` (1 <= keep <= size): 11, 11 and 10 bits at a time, from a histogram
// of those that match the bits found so far.
__device__ inline uint32_t Threshold(const uint32_t* keys, int size, int keep, int* bins) {
  __shared__ uint32_t found;
  __shared__ int left;
  uint32_t prefix = 0, mask = 0;
  for (int shift : {21, 10, 0}) {
    const uint32_t digit_mask = shift == 0 ? 0x3ff : kBins - 1;
    for (int i = threadIdx.x; i < kBins; i += kSelectThreads) bins[i] = 0;
    __syncthreads();
    for (int i = threadIdx.x; i < size; i += kSelectThreads) {
      if ((keys[i] & mask) == prefix) atomicAdd(&bins[keys[i] >> shift & digit_mask], 1);
    }
    __syncthreads();
    // Counted from the highest bin down, kBins / kSelectThreads bins a thread.
    constexpr int kPerThread = kBins / kSelectThreads;
    const int top = kBins - 1 - threadIdx.x * kPerThread;
    int count = 0;
    for (int i = 0; i < kPerThread; ++i) count += bins[top - i];
    Pair total;
    int above = BlockExclusiveSum({count, 0}, &total).a;
    if (above < keep && above + count >= keep) {
      for (int bin = top;; --bin) {
        if (above + bins[bin] >= keep) {
          found = bin;
          left = keep - above;
          break;
        }
        above += bins[bin];
      }
    }
    __syncthreads();
    prefix |= found << shift;
    mask |= digit_mask << shift;
    keep = left;
    __syncthreads();
  }
  return prefix;
}

// The same of at most kSelectThreads keys, or a number that as many reach: bit by bit, by counting.
__device__ inline uint32_t ThresholdOfFew(const uint32_t* keys, int size, int keep) {
  const bool has_key = static_cast<int>(threadIdx.x) < size;
  const uint32_t own = has_key ? keys[threadIdx.x] : 0;
  uint32_t threshold = 0;
  for (int bit = 31; bit >= 0; --bit) {
    const uint32_t trial = threshold | 1u << bit;
    const int count = __syncthreads_count(has_key && own >= trial);
    if (count >= keep) threshold = trial;
    if (count == keep) break;
  }
  return threshold;
}

// Writes the kept candidates in order: those above the threshold, and the last of those equal to
// it.
__device__ inline void ListKept(const uint32_t* keys, int size, int keep, uint32_t threshold,
                                uint16_t* kept) {
  const int per_thread = (size + kSelectThreads - 1) / kSelectThreads;
  const int begin = min(static_cast<int>(threadIdx.x) * per_thread, size);
  const int end = min(begin + per_thread, size);
  Pair count = {0, 0};
  for (int i = begin; i < end; ++i) {
    count.a += keys[i] > threshold;
    count.b += keys[i] == threshold;
  }
  Pair total;
  Pair before = BlockExclusiveSum(count, &total);
  const int dropped_equal = total.b - (keep - total.a);  // the earliest of the equal ones
  for (int i = begin; i < end; ++i) {
    const bool equal = keys[i] == threshold;
    if (keys[i] > threshold || (equal && before.b >= dropped_equal)) {
      kept[before.a + max(0, before.b - dropped_equal)] = i;
    }
    before.a += keys[i] > threshold;
    before.b += equal;
  }
}

}  // namespace tangram::ops::cuda
