#include "ops/cuda/attention/prefill_sm90.cuh"
#include "ops/cuda/check.h"
#include "ops/cuda/fp8.cuh"
#include "ops/cuda/launch.cuh"
#include "ops/cuda/tensor_map.h"

namespace tangram::ops::cuda {
namespace prefill_sm90 {
namespace {

template <int kDim>
__global__ void __launch_bounds__(kThreads, 1)
    PrefillKernel(const __grid_constant__ CUtensorMap q_map,
                  const __grid_constant__ CUtensorMap kv_map, const KernelArgs args) {
  extern __shared__ uint8_t shared_raw[];
  __shared__ Barriers bars;
  uint8_t* shared = reinterpret_cast<uint8_t*>((reinterpret_cast<uintptr_t>(shared_raw) + 1023) &
                                               ~uintptr_t{1023});
  if (threadIdx.x == 0) {
    ptx::BarrierInit(&bars.q_full, 1);
    ptx::BarrierInit(&bars.q_empty, 4 * kConsumerGroups);
    for (int s = 0; s < kStages; ++s) {
      ptx::BarrierInit(&bars.k_full[s], 1);
      ptx::BarrierInit(&bars.v_full[s], 1);
      ptx::BarrierInit(&bars.k_empty[s], 4 * kConsumerGroups);
      ptx::BarrierInit(&bars.v_empty[s], 4 * kConsumerGroups);
    }
    ptx::FenceBarrierInit();
  }
  __syncthreads();
  LaunchDependents();
  WaitForPriorKernels();
  const int begin = args.ranges[blockIdx.x], end = args.ranges[blockIdx.x + 1];
  if (threadIdx.x / 128 == kConsumerGroups) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
    const int warp = threadIdx.x / 32 - 4 * kConsumerGroups;
    if (warp == 0) {
      KeyProducer<kDim> producer{&kv_map, args, shared, bars};
      for (int i = begin; i < end; ++i) producer.Run(PrefillItem(args.items[i]));
    } else if (warp == 1 && threadIdx.x % 32 == 0) {
      ProduceQueries<kDim>(&q_map, args, shared, bars);
    }
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
    ConsumerLoop<kDim> loop{args, shared, bars};
    loop.c.group = threadIdx.x / 128, loop.c.lane = threadIdx.x % 32;
    loop.c.scale_log2 = args.scale_log2;
    loop.queries = ptx::SharedAddress(shared);
    loop.keys = loop.queries + Layout<kDim>::kTileBytes;
    loop.values = loop.keys + kStages * Layout<kDim>::kTileBytes;
    if (loop.c.group == 1 && begin < end) loop.GiveTurn(false);
    for (int i = begin; i < end; ++i) {
      loop.Run(PrefillItem(args.items[i]), (i - begin) & 1, i + 1 == end);
    }
  }
}

// Adds the parts of a tile; a block has 16 of its rows, each kDim / 4 lanes.
constexpr int kMergeThreads = 256, kMergeRows = 16;
constexpr int kMergeInFlight = 4;  // parts on their way at a time

template <int kDim>
__global__ void __launch_bounds__(kMergeThreads)
    MergeKernel(const KernelArgs args, const PrefillMerge* merges) {
  LaunchDependents();
  // The plan is the step's input: no kernel writes it.
  const PrefillMerge merge = merges[blockIdx.x];
  const PrefillItem item = args.items[merge.item];
  WaitForPriorKernels();
  constexpr int kLanes = kDim / 4, kSide = kMergeThreads / kLanes;
  constexpr int64_t kSlotSize = kPrefillTileRows * (kDim + 2);
  const int g = args.heads_per_kv, d = threadIdx.x % kLanes * 4;
#pragma unroll
  for (int i = 0; i < kMergeRows / kSide; ++i) {
    const int row = blockIdx.y * kMergeRows + i * kSide + threadIdx.x / kLanes;
    if (row >= item.num_tokens * g) return;
    const float* sums = args.scratch + merge.first_slot * kSlotSize;
    const float* tops = sums + kPrefillTileRows * kDim + row * 2;
    float top = -INFINITY, total = 0;
    float4 sum = {};
    for (int first = 0; first < merge.num_slots; first += kMergeInFlight) {
      float2 own[kMergeInFlight];
      float4 part[kMergeInFlight];
#pragma unroll
      for (int j = 0; j < kMergeInFlight; ++j) {
        if (first + j >= merge.num_slots) break;
        const int64_t slot = (first + j) * kSlotSize;
        own[j] = *reinterpret_cast<const float2*>(tops + slot);
        part[j] = *reinterpret_cast<const float4*>(sums + slot + row * kDim + d);
      }
#pragma unroll
      for (int j = 0; j < kMergeInFlight; ++j) {
        if (first + j >= merge.num_slots) break;
        const float new_top = fmaxf(top, own[j].x);  // each part has keys that the row sees
        const float rescale = Exp2(top - new_top), weight = Exp2(own[j].x - new_top);
        top = new_top;
        total = total * rescale + weight * own[j].y;
        sum.x = sum.x * rescale + weight * part[j].x;
        sum.y = sum.y * rescale + weight * part[j].y;
        sum.z = sum.z * rescale + weight * part[j].z;
        sum.w = sum.w * rescale + weight * part[j].w;
      }
    }
    const float inverse = 1.f / total;
    const int64_t to = (static_cast<int64_t>(item.first_token + row / g) * args.num_q_heads +
                        item.kv_head * g + row % g) *
                       kDim;
    *reinterpret_cast<uint2*>(args.out + to + d) = {
        ptx::PackBf16(sum.x * inverse, sum.y * inverse),
        ptx::PackBf16(sum.z * inverse, sum.w * inverse)};
  }
}

constexpr int kExpandThreads = 256, kExpandBlocks = 64;

// Copies rows' fp8 pages into consecutive bf16 ones; a block takes every kExpandBlocks-th page of a
// row.
__global__ void __launch_bounds__(kExpandThreads) ExpandKernel(const PrefillArgs a) {
  LaunchDependents();
  WaitForPriorKernels();
  const PrefillRow row = a.rows[blockIdx.y];
  const int eighths = 2 * kPageTokens * a.kv.head_dim / 8;  // of K and V together
  for (int page = blockIdx.x; page * kPageTokens < row.num_keys; page += kExpandBlocks) {
    const int64_t id = a.kv.page_table[row.page_table + page];
    const uint2* from =
        static_cast<const uint2*>(a.kv.pool) + (id * a.kv.group_size + row.column) * eighths;
    uint4* to = reinterpret_cast<uint4*>(a.expanded) +
                (static_cast<int64_t>(row.expanded) + page) * eighths;
    for (int i = threadIdx.x; i < eighths; i += kExpandThreads) to[i] = ExpandFp8(from[i]);
  }
}

template <int kDim>
void Launch(const PrefillArgs& a, cudaStream_t stream) {
  const auto kernel = PrefillKernel<kDim>;
  [[maybe_unused]] static const bool raised = [&] {
    TANGRAM_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                            Layout<kDim>::kBytes));
    return true;
  }();
  const int g = a.num_q_heads / a.num_kv_heads;
  const cuuint64_t token_bytes = cuuint64_t{2} * kDim * (a.num_q_heads + 2 * a.num_kv_heads);
  TensorMapSpec q;
  q.base = a.qkv, q.rank = 3;
  q.dims = {kDim, cuuint64_t(a.num_q_heads), cuuint64_t(a.num_tokens)};
  q.strides = {kDim * 2, token_bytes};
  q.box = {64, cuuint32_t(g), cuuint32_t(kPrefillTileRows / g)};
  const bool fp8 = a.kv.dtype == DType::kF8E4M3;
  if (fp8) {
    const dim3 grid(kExpandBlocks, a.num_rows);
    LaunchChained(ExpandKernel, grid, dim3(kExpandThreads), stream, a);
  }
  const int group_size = fp8 ? 1 : a.kv.group_size;
  const int64_t blocks = 2 * (fp8 ? a.num_expanded : a.kv.num_pages * group_size);
  TensorMapSpec kv;
  kv.base = fp8 ? a.expanded : a.kv.pool, kv.rank = 3;
  kv.dims = {kDim, kPageTokens, cuuint64_t(blocks)};
  kv.strides = {kDim * 2, kPageTokens * kDim * 2};
  kv.box = {64, kPageTokens, 1};
  const KernelArgs args{a.out,
                        a.items,
                        a.ranges,
                        a.scratch,
                        a.kv.page_table,
                        a.num_q_heads,
                        g,
                        group_size,
                        fp8,
                        static_cast<int>(blocks),
                        a.scale * 1.44269504f};
  LaunchChainedShared(kernel, dim3(a.num_blocks), dim3(kThreads), Layout<kDim>::kBytes, stream,
                      EncodeTensorMap(q), EncodeTensorMap(kv), args);
  if (a.num_merges > 0) {
    LaunchChained(MergeKernel<kDim>, dim3(a.num_merges, kPrefillTileRows / kMergeRows),
                  dim3(kMergeThreads), stream, args, a.merges);
  }
}

}  // namespace
}  // namespace prefill_sm90

void RunPrefillSm90(const PrefillArgs& args, cudaStream_t stream) {
  if (args.num_items == 0) return;
  if (args.kv.head_dim == 64) return prefill_sm90::Launch<64>(args, stream);
  prefill_sm90::Launch<128>(args, stream);
}

}  // namespace tangram::ops::cuda
