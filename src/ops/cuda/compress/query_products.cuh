#pragma once

#include <cuda_fp16.h>

#include "ops/cuda/compress/score_queries.h"
#include "ops/cuda/compress/score_tile.cuh"
#include "ops/cuda/ptx_sm80.cuh"

// What the statistics of ExpectedAttention's queries are made of: queries as they were before
// rotation, and the sums of their products.

namespace tangram::ops::cuda::expected {

// (cosine, sine) of an angle, which is reduced to one turn in f64.
__device__ inline float2 Rotation(float angle) {
  const double turns = angle * (0.5 / 3.14159265358979323846);
  float2 r;
  sincospif(2 * static_cast<float>(turns - rint(turns)), &r.y, &r.x);
  return r;
}
__device__ inline float2 Multiply(float2 a, float2 b) {
  return {a.x * b.x - a.y * b.y, a.x * b.y + a.y * b.x};
}

// Products of queries, summed over tokens: what is symmetric, once. A warp has those of a strip of
// 16 dimensions with itself and the next ones, around the end to the first; the strips half way
// round meet once. With fewer strips than warps, teams of warps take turns at the tokens. Queries
// are rounded to f16: the error of a sum over so many tokens is far smaller.
template <int kDim>
struct Products {
  static constexpr int kStride = kDim + 8;  // of a token in shared memory
  static constexpr int kStrips = kDim / 16, kTeams = kScoreWarps / kStrips;
  static constexpr int kBlocks = kStrips / 2 + 1;
  float sums[kBlocks][2][4] = {};  // of 16 by 16 dimensions

  static __device__ int strip() { return threadIdx.x / 32 % kStrips; }
  static __device__ int team() { return threadIdx.x / 32 / kStrips; }
  static __device__ bool Has(int block) { return block < kBlocks - 1 || strip() < kStrips / 2; }
  static __device__ int column(int block) { return (strip() + block) % kStrips * 16; }

  // Adds 16 tokens, [token][dimension].
  __device__ void Add(const __half* tokens) {
    const int lane = threadIdx.x % 32;
    uint32_t a[4];
    ptx::LoadMatricesTransposed(
        a, ptx::SharedAddress(tokens + (lane % 8 + lane / 16 * 8) * kStride + lane / 8 % 2 * 8 +
                              strip() * 16));
#pragma unroll
    for (int block = 0; block < kBlocks; ++block) {
      if (!Has(block)) continue;
      uint32_t b[4];
      ptx::LoadMatricesTransposed(
          b, ptx::SharedAddress(tokens + lane % 16 * kStride + lane / 16 * 8 + column(block)));
      ptx::MmaF16(sums[block][0], a, b[0], b[1]);
      ptx::MmaF16(sums[block][1], a, b[2], b[3]);
    }
  }
  // Adds the sums to `matrix` [kDim][stride], both halves of it.
  __device__ void AddTo(float* matrix, int stride) const {
#pragma unroll
    for (int block = 0; block < kBlocks; ++block) {
      if (!Has(block)) continue;
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const int r = strip() * 16 + i / 2 % 2 * 8 + threadIdx.x % 32 / 4;
        const int c = column(block) + i / 4 * 8 + threadIdx.x % 4 * 2 + i % 2;
        const float sum = sums[block][i / 4][i % 4];
        const bool first = team() == 0;
        matrix[r * stride + c] = first ? sum : matrix[r * stride + c] + sum;
        if (block > 0) matrix[c * stride + r] = first ? sum : matrix[c * stride + r] + sum;
      }
    }
  }
};

// Reads the queries of one head of a chunk as they were before rotation: a thread two neighbouring
// pairs of every kStep-th token.
template <int kDim, bool kInterleaved>
struct QueryReader {
  static constexpr int kPairs = kDim / 2;
  static constexpr int kLanes = kPairs / 2, kStep = kScoreThreads / kLanes;
  const ExpectedAttentionParams& p;
  const __nv_bfloat16* first;  // of the chunk
  int64_t stride;              // from token to token
  int first_position;
  int two_pairs;       // which
  float2 rotation[2];  // of the token in turn, over the scale
  float2 step[2];      // from one of the thread's tokens to the next
  float origin[4];     // what is subtracted from each query

  // Where the four elements are: two by two beside each other.
  __device__ int Place(int half) const {
    return kInterleaved ? 4 * two_pairs + 2 * half : 2 * two_pairs + half * kPairs;
  }
  __device__ void Anchor(int token) {
    const float scale = 1 / p.rope_scale;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      rotation[i] = Rotation((first_position + token) * p.inv_freq[2 * two_pairs + i]);
      rotation[i].x *= scale, rotation[i].y *= scale;
    }
  }
  __device__ uint2 Load(const __nv_bfloat16* q) const {
    if (kInterleaved) return *reinterpret_cast<const uint2*>(q);
    return {*reinterpret_cast<const uint32_t*>(q), *reinterpret_cast<const uint32_t*>(q + kPairs)};
  }
  __device__ uint2 Load(int token) const { return Load(first + token * stride + Place(0)); }
  // Loads the thread's tokens from `token` on; those from `count` on repeat the last.
  template <int kPerThread>
  __device__ void LoadTile(int token, int count, uint2 (&raw)[kPerThread]) const {
    if (token + (kPerThread - 1) * kStep < count) {
      const __nv_bfloat16* q = first + token * stride + Place(0);
#pragma unroll
      for (int i = 0; i < kPerThread; ++i, q += kStep * stride) raw[i] = Load(q);
    } else {
#pragma unroll
      for (int i = 0; i < kPerThread; ++i) raw[i] = Load(min(token + i * kStep, count - 1));
    }
  }
  // Rotates back, and goes on to the thread's next token.
  __device__ void Unrotate(uint2 raw, float (&x)[4]) {
    const float2 a = __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(&raw.x));
    const float2 b = __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(&raw.y));
    const float2 r = rotation[0], t = rotation[1];
    constexpr int kU = kInterleaved ? 1 : 2, kV = kInterleaved ? 2 : 1;
    const float2 one = kInterleaved ? a : make_float2(a.x, b.x);
    const float2 two = kInterleaved ? b : make_float2(a.y, b.y);
    x[0] = fmaf(one.x, r.x, fmaf(one.y, r.y, -origin[0]));
    x[kU] = fmaf(one.y, r.x, fmaf(-one.x, r.y, -origin[kU]));
    x[kV] = fmaf(two.x, t.x, fmaf(two.y, t.y, -origin[kV]));
    x[3] = fmaf(two.y, t.x, fmaf(-two.x, t.y, -origin[3]));
    rotation[0] = Multiply(r, step[0]), rotation[1] = Multiply(t, step[1]);
  }
};

}  // namespace tangram::ops::cuda::expected
