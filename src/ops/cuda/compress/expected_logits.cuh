#pragma once

#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include "ops/cuda/compress/compress_row.cuh"
#include "ops/cuda/kv_load.cuh"
#include "ops/cuda/ptx_sm80.cuh"

// The logits of ExpectedAttention: k'(Sigma k + mu) on the tensor cores, in f16.

namespace tangram::ops::cuda::expected {

constexpr int kLogitThreads = 128, kLogitWarps = kLogitThreads / 32;
constexpr int kBlockHeads = 2;  // query heads whose matrices a block has
constexpr int kKeyTiles = 2;    // of 16 keys that a warp takes at a time
constexpr int kWarpKeys = 16 * kKeyTiles;

// Keys in f16 as the left operand of mma.m16n8k16, straight from the pages. The order of dimensions
// in a product is free: a lane has, of each 32, the eight from 8 * (lane % 4) on, 16 bytes of bf16.
template <class Kv, int kDim>
struct KeyOperand {
  static constexpr int kSteps = kDim / 16, kChunks = kDim / 32;
  uint32_t tiles[kKeyTiles][kSteps][4];

  // Keys from `end` on repeat the last.
  __device__ void Load(const CompressRow& row, const void* pool, int first, int end) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int tile = 0; tile < kKeyTiles; ++tile) {
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const int index = min(first + tile * 16 + r * 8 + lane / 4, end - 1);
        const Kv* key = static_cast<const Kv*>(pool) +
                        (row.VirtualPage(index) * 2 * kPageTokens + index % kPageTokens) * kDim +
                        lane % 4 * 8;
#pragma unroll
        for (int chunk = 0; chunk < kChunks; ++chunk) {
          uint32_t pairs[4];
          LoadF16(key + chunk * 32, pairs);
#pragma unroll
          for (int i = 0; i < 4; ++i) tiles[tile][2 * chunk + i / 2][i % 2 * 2 + r] = pairs[i];
        }
      }
    }
  }
  // Dimensions 2i and 2i + 1 of the lane, of its key `r` of a tile.
  __device__ float2 Pair(int tile, int r, int i) const {
    return __half22float2(*reinterpret_cast<const __half2*>(&tiles[tile][i / 2][i % 2 * 2 + r]));
  }

 private:
  static __device__ void LoadF16(const __nv_bfloat16* from, uint32_t (&pairs)[4]) {
    float x[8];
    Load8(from, x);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const __half2 pair = __floats2half2_rn(x[2 * i], x[2 * i + 1]);
      pairs[i] = *reinterpret_cast<const uint32_t*>(&pair);
    }
  }
  static __device__ void LoadF16(const __nv_fp8_e4m3* from, uint32_t (&pairs)[4]) {
    const uint2 raw = *reinterpret_cast<const uint2*>(from);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const __half2_raw pair = __nv_cvt_fp8x2_to_halfraw2(
          static_cast<__nv_fp8x2_storage_t>((i < 2 ? raw.x : raw.y) >> i % 2 * 16), __NV_E4M3);
      pairs[i] = pair.x | uint32_t{pair.y} << 16;
    }
  }
};

// k'Sigma k is taken from the chunks of 32 dimensions on and above the diagonal, those above
// doubled. In shared memory the 16 bytes that a lane needs for 8 columns and 32 dimensions lie as
// it reads them: [column tile][chunk up to its own][lane].
template <int kDim>
struct Matrix {
  static constexpr int kColumnTiles = kDim / 8, kChunks = kDim / 32;
  static constexpr int kVectors = 2 * kChunks * (kChunks + 1) * 32;

  static __device__ constexpr int Place(int tile, int chunk) {
    return (2 * (tile / 4) * (tile / 4 + 1) + tile % 4 * (tile / 4 + 1) + chunk) * 32;
  }
  // Fetches it from rows in device memory; all threads of the block.
  static __device__ void Fetch(const __half* sigma, uint4* matrix) {
    for (int i = threadIdx.x; i < kColumnTiles * kChunks * 32; i += kLogitThreads) {
      const int lane = i % 32, chunk = i / 32 % kChunks, tile = i / 32 / kChunks;
      if (chunk > tile / 4) continue;
      // Column lane / 4 of a tile is dimension 2 * tile + lane / 4 % 2 of what lane % 4 == lane / 8
      // has of a key.
      const int dim = tile / 4 * 32 + lane / 8 * 8 + tile % 4 * 2 + lane / 4 % 2;
      uint4 vector =
          *reinterpret_cast<const uint4*>(sigma + dim * kDim + chunk * 32 + lane % 4 * 8);
      if (chunk < tile / 4) {
        for (uint32_t* pair : {&vector.x, &vector.y, &vector.z, &vector.w}) {
          const __half2 once = *reinterpret_cast<const __half2*>(pair);
          *reinterpret_cast<__half2*>(pair) = __hadd2(once, once);
        }
      }
      matrix[Place(tile, chunk) + lane] = vector;
    }
  }
};

// sums += k'(Sigma k + mu) of a warp's keys, of some query heads: the lane's part of keys lane / 4
// and 8 further. Fully unrolled: the keys' elements that meet a product's are in registers.
template <int kHeads, class Kv, int kDim>
__device__ __forceinline__ void AddLogits(const KeyOperand<Kv, kDim>& keys, const uint4* matrices,
                                          const float (*mu)[kDim],
                                          float (&sums)[kHeads][kKeyTiles][2]) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int column = 0; column < kDim / 8; ++column) {
    float c[kHeads][kKeyTiles][4];
#pragma unroll
    for (int head = 0; head < kHeads; ++head) {
      const float2 start = *reinterpret_cast<const float2*>(
          &mu[head][column / 4 * 32 + lane % 4 * 8 + column % 4 * 2]);
#pragma unroll
      for (int tile = 0; tile < kKeyTiles; ++tile) {
        c[head][tile][0] = c[head][tile][2] = start.x;
        c[head][tile][1] = c[head][tile][3] = start.y;
      }
    }
#pragma unroll
    for (int chunk = 0; chunk <= column / 4; ++chunk) {
      uint4 b[kHeads];
#pragma unroll
      for (int head = 0; head < kHeads; ++head) {
        b[head] =
            matrices[head * Matrix<kDim>::kVectors + Matrix<kDim>::Place(column, chunk) + lane];
      }
#pragma unroll
      for (int head = 0; head < kHeads; ++head) {
#pragma unroll
        for (int tile = 0; tile < kKeyTiles; ++tile) {
          ptx::MmaF16(c[head][tile], keys.tiles[tile][2 * chunk], b[head].x, b[head].y);
        }
      }
#pragma unroll
      for (int head = 0; head < kHeads; ++head) {
#pragma unroll
        for (int tile = 0; tile < kKeyTiles; ++tile) {
          ptx::MmaF16(c[head][tile], keys.tiles[tile][2 * chunk + 1], b[head].z, b[head].w);
        }
      }
    }
#pragma unroll
    for (int tile = 0; tile < kKeyTiles; ++tile) {
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const float2 key = keys.Pair(tile, r, column);
#pragma unroll
        for (int head = 0; head < kHeads; ++head) {
          float& sum = sums[head][tile][r];
          sum = fmaf(c[head][tile][2 * r], key.x, fmaf(c[head][tile][2 * r + 1], key.y, sum));
        }
      }
    }
  }
}

}  // namespace tangram::ops::cuda::expected
