#pragma once

#include "ops/cuda/gemm.h"
#include "ops/cuda/launch.cuh"
#include "ops/cuda/ptx.cuh"

// The streaming matrix product: out[M, N] = x[M, K] * weight[N, K]^T for few rows of x, bound by
// the reading of `weight`. One persistent block per multiprocessor takes an equal share of all
// (weight tile, K chunk) units, tile by tile (stream-K), so that no shape leaves multiprocessors
// idle; or tiles have such a height that each block takes as many whole ones. The sums of a tile
// that several blocks share are added in a fixed order: the result depends on the shape and the
// number of blocks, never on timing. The weights are the 16-row operand of the
// tensor cores and the tokens the 8-column one, so few tokens cost little.

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

__device__ __forceinline__ int AcquireLoad(const int* p) {
  int value;
  asm volatile("ld.acquire.gpu.global.s32 %0, [%1];" : "=r"(value) : "l"(p) : "memory");
  return value;
}

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

// How a block's share cuts the tiles at its two ends. A tile belongs to the block that has its
// first units, which are the last of that block's share; the blocks behind leave their sums in
// their slots. (They are the first thing those did, unless a tile spans three blocks and more.)
struct StreamEnds {
  int others;  // blocks that add to this block's last tile
  int merge;   // the unit before which their sums are added: two before the end, so that the wait
               // for them and for L2 is over when the last weights arrive
  __device__ StreamEnds(const StreamArgs& args, int begin, int end) {
    const int tile = (end - 1) / args.units_per_tile, tile_begin = tile * args.units_per_tile;
    const int tile_end = tile_begin + args.units_per_tile;
    const bool owner = begin <= tile_begin && end < tile_end;
    others =
        owner ? StreamOwner(args.units, tile_end - 1, gridDim.x) - static_cast<int>(blockIdx.x) : 0;
    merge = others > 0 ? max(tile_begin, end - 2) : -1;
  }
};

// Partial sums of block `block`, float4s; every warp looks after its own rows.
template <class Tile, int kTokens>
__device__ __forceinline__ float4* StreamSlot(const StreamArgs& args, int row_warp, int block) {
  constexpr int kWarp = StreamConsumer<Tile, kTokens>::kRowTiles * (kTokens / 8) * 32;
  return reinterpret_cast<float4*>(args.partials) +
         (static_cast<int64_t>(block) * Tile::kRowWarps + row_warp) * kWarp;
}

// Waits for the other blocks' sums of this block's last tile, and adds them.
template <class Tile, int kTokens>
__device__ __forceinline__ void MergeOthers(StreamConsumer<Tile, kTokens>& c,
                                            const StreamArgs& args, int tile, int others) {
  int* counter = args.counters + tile * Tile::kRowWarps + c.row_warp;
  if (c.lane == 0) {
    while (AcquireLoad(counter) != others) {
    }
    *counter = 0;
  }
  __syncwarp();
  constexpr int64_t kSlot =
      StreamConsumer<Tile, kTokens>::kRowTiles * (kTokens / 8) * 32 * Tile::kRowWarps;
  c.AddPartials(StreamSlot<Tile, kTokens>(args, c.row_warp, blockIdx.x + 1), kSlot, others);
}

// Ends a warp's segment of `tile`: writes its rows if the tile is this block's, else leaves its
// sums.
template <class Tile, int kTokens>
__device__ __forceinline__ void FinishSegment(StreamConsumer<Tile, kTokens>& c,
                                              const StreamArgs& args, int tile, int rows,
                                              bool owner) {
  if (owner) return c.Write(args, tile * rows, (tile + 1) * rows);
  c.StoreFragments(StreamSlot<Tile, kTokens>(args, c.row_warp, blockIdx.x));
  __syncwarp();
  if (c.lane == 0) {
    __threadfence();
    atomicAdd(args.counters + tile * Tile::kRowWarps + c.row_warp, 1);
  }
}

template <class Tile, int kTokens>
__device__ __forceinline__ void StreamProduce(const CUtensorMap* weight_map,
                                              const CUtensorMap* x_map, const StreamArgs& args,
                                              const StreamLayout<Tile, kTokens>& layout,
                                              uint8_t* stages, uint64_t* full, uint64_t* empty,
                                              int begin, int end, bool prime) {
  auto weights = [&](int unit, int s) {
    const int row = unit / args.units_per_tile * layout.rows;
    const int k = unit % args.units_per_tile * Tile::kDepth;
    ptx::BarrierArriveExpect(full + s, layout.copied_bytes());
    ptx::CopyTile3D(stages + s * layout.stage_bytes, weight_map, full + s, 0, row, k / 64,
                    ptx::kEvictFirst);
  };
  auto tokens = [&](int unit, int s) {
    const int k = unit % args.units_per_tile * Tile::kDepth;
    ptx::CopyTile3D(stages + s * layout.stage_bytes + layout.weight_bytes, x_map, full + s, 0, 0,
                    k / 64, ptx::kEvictLast);
  };
  const int primed = min(begin + layout.stages, end);
  if (prime) {
    // Weights do not depend on the kernels before: they are on their way while those still run.
    for (int unit = begin; unit < primed; ++unit) weights(unit, unit - begin);
    return;
  }
  // The next kernel may start and fetch its first weights. (Later was slower: its start takes as
  // long as this one's end.)
  LaunchDependents();
  WaitForPriorKernels();
  for (int unit = begin; unit < primed; ++unit) tokens(unit, unit - begin);
  int s = 0;
  uint32_t phase = 0;
  for (int unit = primed; unit < end; ++unit) {
    ptx::BarrierWait(empty + s, phase);
    weights(unit, s);
    tokens(unit, s);
    if (++s == layout.stages) s = 0, phase ^= 1;
  }
}

template <class Tile, int kTokens>
__global__ void __launch_bounds__(Tile::kThreads, 1)
    StreamKernel(const __grid_constant__ CUtensorMap weight_map,
                 const __grid_constant__ CUtensorMap x_map, const StreamArgs args) {
  using Layout = StreamLayout<Tile, kTokens>;
  extern __shared__ uint8_t shared_raw[];
  __shared__ uint64_t full[Layout::kMostStages], empty[Layout::kMostStages];
  const Layout layout(args.even_rows, args.m);
  uint8_t* stages = reinterpret_cast<uint8_t*>((reinterpret_cast<uintptr_t>(shared_raw) + 1023) &
                                               ~uintptr_t{1023});
  const int warp = threadIdx.x / 32;
  const int begin = ShareBegin<Tile>(args, blockIdx.x);
  const int end = ShareBegin<Tile>(args, blockIdx.x + 1);
  const bool producer = threadIdx.x == Tile::kConsumers;
  const auto produce = [&](bool prime) {
    StreamProduce(&weight_map, &x_map, args, layout, stages, full, empty, begin, end, prime);
  };
  if (producer) {
    for (int i = 0; i < layout.stages; ++i) {
      ptx::BarrierInit(full + i, 1);
      ptx::BarrierInit(empty + i, Tile::kConsumers / 32);
    }
    ptx::FenceBarrierInit();
    produce(true);
  }
  __syncthreads();
  if (warp == Tile::kConsumers / 32) {
    if (producer) produce(false);
    return;
  }
  WaitForPriorKernels();
  StreamConsumer<Tile, kTokens> consumer;
  consumer.row_warp = warp % Tile::kRowWarps;
  consumer.depth_warp = warp / Tile::kRowWarps;
  consumer.lane = threadIdx.x % 32;
  consumer.Clear();
  const uint32_t base = ptx::SharedAddress(stages);
  float4* scratch = reinterpret_cast<float4*>(stages + layout.stages * layout.stage_bytes);
  const StreamEnds ends(args, begin, end);
  int s = 0, segment = begin;
  uint32_t phase = 0;
  for (int unit = begin; unit < end; ++unit) {
    const int tile = unit / args.units_per_tile;
    if (!Tile::kEven && unit == ends.merge && consumer.depth_warp == 0) {
      MergeOthers(consumer, args, tile, ends.others);
    }
    ptx::BarrierWait(full + s, phase);
    consumer.Multiply(layout, base + s * layout.stage_bytes);
    __syncwarp();
    if (consumer.lane == 0) ptx::BarrierArrive(empty + s);
    if (++s == layout.stages) s = 0, phase ^= 1;
    if ((unit + 1) % args.units_per_tile != 0 && unit + 1 < end) continue;
    consumer.ReduceDepth(scratch);
    if (consumer.depth_warp == 0) {
      FinishSegment(consumer, args, tile, layout.rows,
                    Tile::kEven || segment % args.units_per_tile == 0);
    }
    consumer.Clear();
    segment = unit + 1;
  }
}

}  // namespace tangram::ops::cuda
