#pragma once

#include <cmath>

#include "ops/cuda/sampling/team.cuh"
#include "ops/philox.h"

// A block's part of a row of logits, and what is looked for in it.

namespace tangram::ops::cuda::sampling {

// A token and what it competes with. Larger values win, then lower ids; NaN and minus infinity
// never do.
struct Best {
  float value = -INFINITY;
  int token = INT_MAX;

  __device__ __forceinline__ void Offer(float v, int t) {
    if (v > value || (v == value && t < token)) value = v, token = t;
  }
  // Of four adjacent tokens, above all that were offered before.
  __device__ __forceinline__ void OfferFour(const float4& v, int t) {
    if (!(fmaxf(fmaxf(v.x, v.y), fmaxf(v.z, v.w)) > value)) return;
    if (v.x > value) value = v.x, token = t;
    if (v.y > value) value = v.y, token = t + 1;
    if (v.z > value) value = v.z, token = t + 2;
    if (v.w > value) value = v.w, token = t + 3;
  }
  // The larger integer is the better one; never 0.
  __device__ __forceinline__ Wide Pack() const {
    const uint32_t bits = __float_as_uint(value + 0.f);  // -0 ties with 0
    const uint32_t ordered = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
    return Wide{ordered} << 32 | static_cast<uint32_t>(~token);
  }
  __device__ __forceinline__ static Best Unpack(Wide packed) {
    const uint32_t ordered = static_cast<uint32_t>(packed >> 32);
    const uint32_t bits = ordered & 0x80000000u ? ordered & ~0x80000000u : ~ordered;
    return {__uint_as_float(bits), ~static_cast<int>(static_cast<uint32_t>(packed))};
  }
};

__device__ __forceinline__ float4 Divide(float4 v, float divisor) {
  if (divisor == 1) return v;
  return {__fdiv_rn(v.x, divisor), __fdiv_rn(v.y, divisor), __fdiv_rn(v.z, divisor),
          __fdiv_rn(v.w, divisor)};
}

// Tokens first to first + count - 1; the first one is a multiple of 4.
struct Slice {
  const float*
      values;        // logits, in shared or global memory; up to a multiple of 4 they may be read
  int first, count;  // count may be below 1

  // The four from `i` on, of which tokens behind the vocabulary are minus infinity.
  __device__ __forceinline__ float4 Cut(float4 v, int i) const {
    if (i + 1 >= count) v.y = -INFINITY;
    if (i + 2 >= count) v.z = -INFINITY;
    if (i + 3 >= count) v.w = -INFINITY;
    return v;
  }
};

// Calls f(four logits, index of the first in the slice) for a thread's share: four adjacent tokens
// at a time, upwards, with the loads of kBatch in flight. `between()` is called by all threads
// together, after each batch.
template <int kBatch, class F, class Between>
__device__ __forceinline__ void ForEachFour(const Slice& slice, const F& f,
                                            const Between& between) {
  constexpr int kStride = kThreads * 4;
  for (int start = 0; start < slice.count; start += kBatch * kStride) {
    const int i = start + static_cast<int>(threadIdx.x) * 4;
    float4 v[kBatch];
#pragma unroll
    for (int b = 0; b < kBatch; ++b) {
      const int at = i + b * kStride;
      if (at < slice.count) v[b] = *reinterpret_cast<const float4*>(slice.values + at);
    }
#pragma unroll
    for (int b = 0; b < kBatch; ++b) {
      const int at = i + b * kStride;
      if (at < slice.count) f(slice.Cut(v[b], at), at);
    }
    between();
  }
}

// Calls f(logit / divisor, token) for each.
template <class F>
__device__ __forceinline__ void ForEach(const Slice& slice, float divisor, const F& f) {
  ForEachFour<2>(
      slice,
      [&](const float4& logits, int i) {
        const float4 v = Divide(logits, divisor);
        const int t = slice.first + i;
        f(v.x, t), f(v.y, t + 1), f(v.z, t + 2), f(v.w, t + 3);
      },
      [] {});
}

// Finite for any bits: of 150,000 tokens one with infinite noise would be drawn whatever its logit.
__device__ __forceinline__ float Gumbel(uint32_t bits) { return -logf(-logf(UnitInterval(bits))); }

// Looks for the largest score + noise. Noise takes two logarithms a token, which most can do
// without: it has a bound, and a token's random bits give a better one.
struct Race {
  uint64_t seed;
  uint32_t draw;
  Best best;
  float level = -INFINITY;  // what the winner reaches at least

  // Scores of four adjacent tokens; those that are kept(score) take part, minus infinity never.
  template <class Kept>
  __device__ __forceinline__ void OfferFour(const float4& v, int token, const Kept& kept) {
    const float highest = fmaxf(fmaxf(v.x, v.y), fmaxf(v.z, v.w));
    if (!(highest > -INFINITY) || highest + kMaxGumbel < level || !kept(highest)) return;
    const Philox4 bits = NoiseBits(static_cast<uint32_t>(token) / 4, draw, seed);
    // As -log(u) >= 1 - u, this is above what the best bits give. The sum rounds to within 2^-23 of
    // the level.
    const float gap = level - (1e-3f + fabsf(level) * 0x1p-22f) - highest;
    const uint32_t most = max(max(bits.x, bits.y), max(bits.z, bits.w));
    if (level > -INFINITY && 1 - UnitInterval(most) >= __expf(-gap)) return;
    Offer(v.x, token, bits.x, kept), Offer(v.y, token + 1, bits.y, kept);
    Offer(v.z, token + 2, bits.z, kept), Offer(v.w, token + 3, bits.w, kept);
  }
  template <class Kept>
  __device__ __forceinline__ void Offer(float score, int token, uint32_t bits, const Kept& kept) {
    // Not contracted: wherever this is inlined the same bits come out.
    if (score > -INFINITY && kept(score)) best.Offer(__fadd_rn(score, Gumbel(bits)), token);
  }
  // All threads of a warp: none needs to look below what any has.
  __device__ __forceinline__ void Share() {
    level = fmaxf(level, best.value);
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) {
      level = fmaxf(level, __shfl_xor_sync(~0u, level, offset));
    }
  }
};

}  // namespace tangram::ops::cuda::sampling
