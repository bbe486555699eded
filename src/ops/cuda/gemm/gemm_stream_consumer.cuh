#pragma once

#include "ops/cuda/gemm/gemm_stream_tile.cuh"
#include "ops/cuda/ptx.cuh"

// Of the streaming matrix product (gemm_stream.cuh): what a warp that multiplies does.

namespace tangram::ops::cuda {

// A warp's rows of a tile, over its part of K of each unit.
template <class Tile, int kTokens>
struct StreamConsumer {
  static constexpr int kRowTiles = Tile::kRows / Tile::kRowWarps / 16;
  static constexpr int kTokenTiles = kTokens / 8;
  static constexpr int kSteps = Tile::kDepth / 16 / Tile::kDepthWarps;  // k16 steps of this warp
  using Layout = StreamLayout<Tile, kTokens>;

  float acc[kRowTiles][kTokenTiles][4];
  int row_warp, depth_warp, lane;

  __device__ __forceinline__ void Clear() {
#pragma unroll
    for (int r = 0; r < kRowTiles; ++r)
#pragma unroll
      for (int t = 0; t < kTokenTiles; ++t)
#pragma unroll
        for (int i = 0; i < 4; ++i) acc[r][t][i] = 0.f;
  }

  // Adds the unit in the stage at shared address `stage`.
  __device__ __forceinline__ void Multiply(const Layout& layout, uint32_t stage) {
    const uint32_t tokens = stage + layout.weight_bytes;
    const int a_row = row_warp * kRowTiles * 16 + (lane & 15), a_half = lane >> 4;
#pragma unroll
    for (int step = 0; step < kSteps; step += 2) {
      const int k = depth_warp * kSteps + step;  // in units of 16 elements, even
      const int first_row = (k >> 2) * layout.rows;
      uint32_t b[2][kTokenTiles][2];
      LoadTokens(b, layout, tokens, k);
#pragma unroll
      for (int s = 0; s < 2; ++s) {
        const int chunk = ((k & 3) + s) * 2 + a_half;
#pragma unroll
        for (int r = 0; r < kRowTiles; ++r) {
          // Of rows that the tile does not have, the last one in their place.
          const int in_tile = Tile::kEven ? min(a_row + r * 16, layout.rows - 1) : a_row + r * 16;
          const int row = first_row + in_tile;
          uint32_t a[4];
          ptx::LoadMatrices(a, stage + row * 128 + ((chunk ^ (row & 7)) << 4));
#pragma unroll
          for (int t = 0; t < kTokenTiles; ++t) ptx::MmaBf16(acc[r][t], a, b[s][t][0], b[s][t][1]);
        }
      }
    }
  }

  // The token operand of the k16 steps `k` (even) and k + 1 of a unit.
  __device__ __forceinline__ void LoadTokens(uint32_t (&b)[2][kTokenTiles][2], const Layout& layout,
                                             uint32_t tokens, int k) const {
#pragma unroll
    for (int t = 0; t < kTokenTiles; ++t) {
      const int token = t * 8 + (lane & 7);
      // Of tokens that there are not, the last one in their place.
      const int row =
          (k >> 2) * layout.tokens + (Tile::kEven ? min(token, layout.tokens - 1) : token);
      const int chunk = (k & 3) * 2 + (lane >> 3);
      uint32_t r[4];
      ptx::LoadMatrices(r, tokens + row * 128 + ((chunk ^ (row & 7)) << 4));
      b[0][t][0] = r[0], b[0][t][1] = r[1], b[1][t][0] = r[2], b[1][t][1] = r[3];
    }
  }

  // Sums the warps over K into depth warp 0, in their order. All consumers call it.
  __device__ __forceinline__ void ReduceDepth(float4* scratch) {
    if constexpr (Tile::kDepthWarps > 1) {
      constexpr int kFragments = kRowTiles * kTokenTiles;
      ptx::NamedBarrier(1, Tile::kConsumers);  // the scratch of the tile before has been read
      if (depth_warp > 0) {
        float4* mine = scratch + ((depth_warp - 1) * Tile::kRowWarps + row_warp) * kFragments * 32;
#pragma unroll
        for (int f = 0; f < kFragments; ++f) {
          const float* v = acc[f / kTokenTiles][f % kTokenTiles];
          mine[f * 32 + lane] = make_float4(v[0], v[1], v[2], v[3]);
        }
      }
      ptx::NamedBarrier(1, Tile::kConsumers);
      if (depth_warp == 0) {
        for (int w = 0; w < Tile::kDepthWarps - 1; ++w) {
          const float4* from = scratch + (w * Tile::kRowWarps + row_warp) * kFragments * 32;
#pragma unroll
          for (int f = 0; f < kFragments; ++f) Add(f, from[f * 32 + lane]);
        }
      }
    }
  }

  __device__ __forceinline__ void Add(int fragment, const float4& other) {
    float* v = acc[fragment / kTokenTiles][fragment % kTokenTiles];
    v[0] += other.x, v[1] += other.y, v[2] += other.z, v[3] += other.w;
  }

  // Adds `count` partial sums, `stride` float4s apart, in order; the loads of several are in flight
  // together. They come from L2, where other blocks put them.
  __device__ __forceinline__ void AddPartials(const float4* from, int64_t stride, int count) {
    constexpr int kFragments = kRowTiles * kTokenTiles;
    constexpr int kGroup = kFragments <= 4 ? 4 : 1;
    for (int b = 0; b < count; b += kGroup) {
      float4 loaded[kGroup][kFragments];
#pragma unroll
      for (int i = 0; i < kGroup; ++i) {
        const bool inside = b + i < count;
#pragma unroll
        for (int f = 0; f < kFragments; ++f) {
          loaded[i][f] = inside ? __ldcg(from + (b + i) * stride + f * 32 + lane)
                                : make_float4(0.f, 0.f, 0.f, 0.f);
        }
      }
#pragma unroll
      for (int i = 0; i < kGroup; ++i) {
#pragma unroll
        for (int f = 0; f < kFragments; ++f) Add(f, loaded[i][f]);
      }
    }
  }

  __device__ __forceinline__ void StoreFragments(float4* to) const {
#pragma unroll
    for (int f = 0; f < kRowTiles * kTokenTiles; ++f) {
      const float* v = acc[f / kTokenTiles][f % kTokenTiles];
      __stcg(to + f * 32 + lane, make_float4(v[0], v[1], v[2], v[3]));
    }
  }

  // Writes the finished tile, rows [tile_row, tile_end).
  __device__ __forceinline__ void Write(const StreamArgs& args, int tile_row, int tile_end) const {
    const int end = min(args.n, tile_end);
    const bool odd = (lane >> 2) & 1;
#pragma unroll
    for (int r = 0; r < kRowTiles; ++r) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row = tile_row + (row_warp * kRowTiles + r) * 16 + half * 8 + (lane >> 2);
        const float bias =
            args.bias != nullptr && row < end ? __bfloat162float(args.bias[row]) : 0.f;
#pragma unroll
        for (int t = 0; t < kTokenTiles; ++t) {
          const float v0 = acc[r][t][half * 2] + bias, v1 = acc[r][t][half * 2 + 1] + bias;
          // Neighbouring rows swap, so that each lane holds two adjacent outputs of one token.
          const float other = __shfl_xor_sync(0xffffffffu, odd ? v0 : v1, 4);
          const int token = t * 8 + (lane & 3) * 2 + odd;
          WritePair(args, token, row - odd, end, odd ? other : v0, odd ? v1 : other);
        }
      }
    }
  }

  // Rows `row` and the next, if they are before `end`.
  __device__ __forceinline__ static void WritePair(const StreamArgs& args, int token, int row,
                                                   int end, float v0, float v1) {
    if (token >= args.m || row >= end) return;
    const int columns = args.n - args.f32_columns;
    const int64_t at = token * args.out_stride + row;
    __nv_bfloat16* out = args.out + at;
    if (row + 1 < min(columns, end) && at % 2 == 0) {
      *reinterpret_cast<__nv_bfloat162*>(out) = __floats2bfloat162_rn(v0, v1);
      return;
    }
    const float v[2] = {v0, v1};
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      if (row + i >= end) return;
      if (row + i < columns) {
        out[i] = __float2bfloat16_rn(v[i]);
      } else {
        args.out_f32[static_cast<int64_t>(token) * args.f32_columns + row + i - columns] = v[i];
      }
    }
  }
};

}  // namespace tangram::ops::cuda
