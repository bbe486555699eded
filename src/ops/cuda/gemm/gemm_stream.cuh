#pragma once

#include "ops/cuda/gemm/gemm_stream_consumer.cuh"
#include "ops/cuda/launch.cuh"

// The streaming matrix product: out[M, N] = x[M, K] * weight[N, K]^T for few rows of x, bound by
// the reading of `weight`. One persistent block per multiprocessor takes an equal share of all
// (weight tile, K chunk) units, tile by tile (stream-K), so that no shape leaves multiprocessors
// idle; or tiles have such a height that each block takes as many whole ones. The sums of a tile
// that several blocks share are added in a fixed order: the result depends on the shape and the
// number of blocks, never on timing. The weights are the 16-row operand of the
// tensor cores and the tokens the 8-column one, so few tokens cost little.

namespace tangram::ops::cuda {

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

__device__ __forceinline__ int AcquireLoad(const int* p) {
  int value;
  asm volatile("ld.acquire.gpu.global.s32 %0, [%1];" : "=r"(value) : "l"(p) : "memory");
  return value;
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
