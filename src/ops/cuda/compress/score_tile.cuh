#pragma once

#include <cuda_fp8.h>

#include "ops/cuda/compress/compress_row.cuh"
#include "ops/cuda/fp8.cuh"
#include "ops/cuda/ptx_sm80.cuh"

// What the scorers that multiply keys by matrices share: tiles of keys in shared memory, in bf16
// (fp8 values are exact there), and their products on the tensor cores.

namespace tangram::ops::cuda {

constexpr int kTileKeys = 64;
constexpr int kScoreThreads = 256;
constexpr int kScoreWarps = kScoreThreads / 32;

// Keys [first, first + 64) of a row. They are read into registers, so that one tile is on its way
// while another is in use, and then stored.
template <class Kv, int kDim>
class KeyTile {
 public:
  static constexpr int kStride = kDim + 8;  // rows 16 bytes apart in their banks
  static constexpr int kElements = kTileKeys * kStride;

  // Keys from `end` on become 0.
  __device__ void Load(const CompressRow& row, const void* pool, int first, int end) {
#pragma unroll
    for (int i = 0; i < kPerThread; ++i) {
      const int v = i * kScoreThreads + threadIdx.x;
      const int index = first + v / kVectors;
      staged_[i] = uint4{0, 0, 0, 0};
      if (index >= end) continue;
      const Kv* key = static_cast<const Kv*>(pool) +
                      (row.VirtualPage(index) * 2 * kPageTokens + index % kPageTokens) * kDim;
      if constexpr (sizeof(Kv) == 1) {
        const uint2 raw = *reinterpret_cast<const uint2*>(key + v % kVectors * 8);
        staged_[i] = uint4{raw.x, raw.y, 0, 0};
      } else {
        staged_[i] = *reinterpret_cast<const uint4*>(key + v % kVectors * 8);
      }
    }
  }
  __device__ void Store(__nv_bfloat16* tile) const {
#pragma unroll
    for (int i = 0; i < kPerThread; ++i) {
      const int v = i * kScoreThreads + threadIdx.x;
      uint4 values = staged_[i];
      if constexpr (sizeof(Kv) == 1) values = ExpandFp8(uint2{values.x, values.y});
      *reinterpret_cast<uint4*>(tile + v / kVectors * kStride + v % kVectors * 8) = values;
    }
  }

 private:
  static constexpr int kVectors = kDim / 8;
  static constexpr int kPerThread = kTileKeys * kVectors / kScoreThreads;
  uint4 staged_[kPerThread];
};

// The right operand of mma.m16n8k16 for two steps of 16 dimensions: `rows` points to 8 rows of the
// transposed operand at the first of the 32 dimensions.
__device__ __forceinline__ void LoadRightOperand(uint32_t (&b)[4], const __nv_bfloat16* rows,
                                                 int stride) {
  const int lane = threadIdx.x % 32;
  ptx::LoadMatrices(b, ptx::SharedAddress(rows + lane % 8 * stride + lane / 8 * 8));
}

}  // namespace tangram::ops::cuda
