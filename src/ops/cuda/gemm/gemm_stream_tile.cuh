#pragma once

#include <cuda_bf16.h>

#include <cstdint>

// Of the streaming matrix product (gemm_stream.cuh): what a tile is, where it lies in shared
// memory, and which of them a block takes.

namespace tangram::ops::cuda {

// Rows of a weight tile, K elements of a unit, warps over rows and over K, shared memory in KiB
// for the stages. Two blocks of consecutive kernels fit on a multiprocessor, so that the next
// kernel's first weights arrive while this one finishes. `kEven`: tiles have as many rows (at most
// kRows) as make whole tiles an even share of each block, which spares adding up shared ones (about
// 1 us).
template <int kRows_, int kDepth_, int kRowWarps_, int kDepthWarps_, int kSharedKib_,
          bool kEven_ = false>
struct StreamTile {
  static constexpr int kRows = kRows_;
  static constexpr int kDepth = kDepth_;
  static constexpr int kRowWarps = kRowWarps_;
  static constexpr int kDepthWarps = kDepthWarps_;
  static constexpr int kSharedKib = kSharedKib_;
  static constexpr bool kEven = kEven_;
  static constexpr int kConsumers = 32 * kRowWarps * kDepthWarps;
  static constexpr int kThreads = kConsumers + 32;
};

// Shared memory: the stages, a unit of weights and of tokens each, and what ReduceDepth needs.
template <class Tile, int kTokens>
struct StreamLayout {
  static constexpr int kSubtiles = Tile::kDepth / 64;  // 128-byte rows, swizzled
  static constexpr int kReduceBytes = (Tile::kDepthWarps - 1) * Tile::kRows * kTokens * 4;
  static constexpr int kMostStages = 8;

  int rows,
      tokens;  // of a unit: kRows and kTokens, but only as many as there are if tiles are even
  int weight_bytes, stage_bytes, stages;

  __host__ __device__ StreamLayout(int even_rows, int m)
      : rows(Tile::kEven ? even_rows : Tile::kRows),
        tokens(Tile::kEven && m < kTokens ? m : kTokens),
        weight_bytes(Swizzled(rows)),
        stage_bytes(weight_bytes + Swizzled(tokens)),
        stages((Tile::kSharedKib * 1024 - kReduceBytes) / stage_bytes) {
    if (stages > kMostStages) stages = kMostStages;
  }
  __host__ __device__ int bytes() const { return 1024 + stages * stage_bytes + kReduceBytes; }
  __device__ int copied_bytes() const { return kSubtiles * (rows + tokens) * 128; }
  bool fits() const { return stages >= 3; }

 private:
  // Swizzled boxes begin at multiples of 1024.
  __host__ __device__ static constexpr int Swizzled(int box_rows) {
    return (kSubtiles * box_rows * 128 + 1023) / 1024 * 1024;
  }
};

struct StreamArgs {
  const __nv_bfloat16* bias;
  __nv_bfloat16* out;
  float* out_f32;
  float* partials;
  int* counters;
  int m, n, f32_columns;
  int64_t out_stride;
  int even_rows;  // of a tile, if tiles are even
  int units_per_tile, units;
};

// The share of block `block`: units [StreamBegin(block), StreamBegin(block + 1)). units * blocks <
// 2^32.
__device__ __forceinline__ int StreamBegin(uint32_t units, uint32_t block, uint32_t blocks) {
  return units * block / blocks;
}

// The same in whole tiles, if they are even.
template <class Tile>
__device__ __forceinline__ int ShareBegin(const StreamArgs& args, uint32_t block) {
  if (!Tile::kEven) return StreamBegin(args.units, block, gridDim.x);
  return StreamBegin(args.units / args.units_per_tile, block, gridDim.x) * args.units_per_tile;
}

// The block whose share holds `unit`: the last one that begins at it or before.
__device__ __forceinline__ int StreamOwner(uint32_t units, uint32_t unit, uint32_t blocks) {
  return ((unit + 1) * blocks - 1) / units;
}

}  // namespace tangram::ops::cuda
