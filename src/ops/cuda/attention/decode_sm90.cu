#include <cuda.h>

#include <cstring>

#include "ops/cuda/attention/decode_attention.h"
#include "ops/cuda/attention/decode_tasks_sm90.cuh"
#include "ops/cuda/attention/decode_warp_sm90.cuh"
#include "ops/cuda/check.h"
#include "ops/cuda/device.h"
#include "ops/cuda/tensor_map.h"

// Decode attention on Hopper. Bound by reading K and V once: one persistent block a multiprocessor,
// whose eight warps work alone, each on every eighth page of a segment, with a ring of pages of its
// own in flight (192 KiB a multiprocessor; about 30 KiB would hide the latency, the rest hides
// changes of segment). What they leave at the end of a segment they add up together, but only at
// the end of the next one: waiting for the slowest at once would empty the rings of the others. A
// page comes by one box of the copy engine, swizzled so that ldmatrix meets no bank conflicts.
// Operands are swapped, S^T = K Q^T and O^T += V^T P^T, since a group of query heads fills N = 8,
// not M = 16.
namespace tangram::ops::cuda {
namespace {

using namespace decode_sm90;

constexpr int kThreads = kWarps * 32;

template <class Kv, int kDim>
struct Shared {
  using S = Shape<Kv, kDim>;
  alignas(1024) uint8_t pages[kWarps][S::kStages][S::kPageBytes];
  uint64_t full[kWarps][S::kStages];
  uint64_t stored[2];  // all warps have left their sums in the buffer
  float out[kWarps][kHeads][S::kOutStride];
  float2 max_sum[kWarps][kHeads];
};

// Adds up the warps' sums, in relative order, and writes the segment's result; all warps take a
// share.
template <class Kv, int kDim>
__device__ void MergeSegment(const DecodeAttentionParams& p, const Task& task, int first_column,
                             const Shared<Kv, kDim>& shared) {
  const int group = p.num_q_heads / p.num_kv_heads;
  const int slot = task.segment.partial_slot;
  const int64_t first_row = int64_t{slot < 0 ? task.segment.entry : slot} * group;
  for (int j = threadIdx.x; j < group * kDim / 2; j += kThreads) {
    const int head = j / (kDim / 2), dim = j % (kDim / 2) * 2;
    float maximum = -INFINITY, sum = 0;
    float2 result = {0, 0};
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
      maximum = fmaxf(maximum, shared.max_sum[w][first_column + head].x);
    }
#pragma unroll
    for (int i = 0; i < kWarps; ++i) {
      const int w = (task.first_warp + i) & (kWarps - 1);
      const float2 max_sum = shared.max_sum[w][first_column + head];
      const float weight = exp2f(max_sum.x - maximum);  // 0 of a warp without pages
      const float2 out = *reinterpret_cast<const float2*>(&shared.out[w][first_column + head][dim]);
      sum += weight * max_sum.y;
      result.x += weight * out.x;
      result.y += weight * out.y;
    }
    const int64_t row = first_row + head;
    if (slot < 0) {
      *reinterpret_cast<uint32_t*>(p.out + row * kDim + dim) =
          ptx::PackBf16(result.x / sum, result.y / sum);
    } else {
      *reinterpret_cast<float2*>(p.partial_out + row * kDim + dim) = result;
      if (dim == 0) p.partial_max_sum[row] = {maximum, sum};
    }
  }
}

// The shared segment whose sums are stored but not added up yet. Two buffers suffice: who stores
// into one has merged the other, which needed all warps' sums, stored after each had merged the
// buffer's last use.
template <class Kv, int kDim>
class PendingMerge {
 public:
  __device__ PendingMerge(const DecodeAttentionParams& p, Shared<Kv, kDim>& shared)
      : p_(p), shared_(shared), buffers_(p.num_q_heads / p.num_kv_heads <= kHeads / 2 ? 2 : 1) {}

  __device__ void Finish() {
    if (!pending_) return;
    ptx::BarrierWaitToken(&shared_.stored[buffer_], token_);
    MergeSegment(p_, task_, buffer_ * (kHeads / 2), shared_);
    pending_ = false;
    if (buffers_ == 1)
      __syncthreads();  // large groups of query heads fill all columns: no second buffer
  }

  __device__ void Start(const Task& task, WarpAttention<Kv, kDim>& attention) {
    Finish();
    buffer_ = (buffer_ + 1) % buffers_;
    const int warp = threadIdx.x / 32;
    attention.Store(shared_.out[warp], shared_.max_sum[warp], buffer_ * (kHeads / 2),
                    kHeads / buffers_);
    token_ = ptx::BarrierArriveToken(&shared_.stored[buffer_]);
    task_ = task;
    pending_ = true;
  }

 private:
  const DecodeAttentionParams& p_;
  Shared<Kv, kDim>& shared_;
  Task task_;
  uint64_t token_;
  int buffers_;
  int buffer_ = 0;
  bool pending_ = false;
};

template <class Kv, int kDim>
__global__ void __launch_bounds__(kThreads, 1)
    DecodeSm90Kernel(const __grid_constant__ CUtensorMap map,
                     const __grid_constant__ DecodeAttentionParams p) {
  using S = Shape<Kv, kDim>;
  extern __shared__ __align__(1024) uint8_t raw_shared[];
  Shared<Kv, kDim>& shared = *reinterpret_cast<Shared<Kv, kDim>*>(raw_shared);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const uint32_t pages = ptx::SharedAddress(shared.pages[warp]);
  const uint32_t full = ptx::SharedAddress(shared.full[warp]);
  bool waited = !p.early_start;
  if (waited) cudaGridDependencySynchronize();
  const uint64_t policy = ptx::EvictFirstPolicy();
  PageFeed feed(p, blockIdx.x);  // its loads are on their way while the barriers are made
  if (threadIdx.x == 0) {
    for (int i = 0; i < kWarps * S::kStages; ++i) ptx::BarrierInit(&shared.full[0][0] + i, 1);
    for (uint64_t& stored : shared.stored) ptx::BarrierInit(&stored, kThreads);
    ptx::FenceBarrierInit();
    ptx::PrefetchTensorMap(&map);
  }
  __syncthreads();
  auto start_copy = [&](int stage) {
    bool last;
    const int page = feed.Next(&last);
    if (last && !waited) {
      cudaGridDependencySynchronize();
      waited = true;
    }
    if (lane == 0 && page >= 0) {
      ptx::BarrierArriveExpect(full + 8 * stage, S::kPageBytes);
      ptx::CopyBox4D(pages + stage * S::kPageBytes, &map, full + 8 * stage, page, policy);
    }
  };
  for (int stage = 0; stage < S::kStages; ++stage) start_copy(stage);
  if (!waited) cudaGridDependencySynchronize();
  waited = true;
  cudaTriggerProgrammaticLaunchCompletion();  // the combine may stand beside it and wait

  WarpAttention<Kv, kDim> attention;
  TaskWalker walker(p.plan, blockIdx.x, warp);
  Task task, next;
  bool more = walker.Next(&task);
  typename WarpAttention<Kv, kDim>::Query query, next_query;
  if (more) query = attention.LoadQuery(p, task.segment.entry);
  const float scale_log2 = p.scale * kLog2E;
  int stage = 0;
  uint32_t parity = 0;
  PendingMerge<Kv, kDim> merge(p, shared);
  while (more) {
    more = walker.Next(&next);
    if (more) next_query = attention.LoadQuery(p, next.segment.entry);  // in flight meanwhile
    attention.Reset();
    for (int page = task.first_page; page < task.segment.end_page; page += task.step) {
      ptx::BarrierWait(full + 8 * stage, parity);
      const int valid = task.segment.num_tokens - page * kPageTokens;
      attention.AddPage(pages + stage * S::kPageBytes, query, valid, scale_log2);
      __syncwarp();  // all lanes have read the page
      start_copy(stage);
      if (++stage == S::kStages) stage = 0, parity ^= 1;
    }
    if (task.solo) {
      attention.WriteSolo(p, task.segment);
    } else {
      merge.Start(task, attention);
    }
    task = next;
    query = next_query;
  }
  merge.Finish();
}

template <class Kv, int kDim>
void Launch(const DecodeAttentionParams& params, const KvTensorMap& map, cudaStream_t stream) {
  auto kernel = DecodeSm90Kernel<Kv, kDim>;
  constexpr int kShared = sizeof(Shared<Kv, kDim>);
  // A block of the combine, which has none of its own, stands beside: the device keeps 1 KiB a
  // block for itself, of 228.
  static_assert(kShared + 2 * 1024 <= 228 * 1024);
  static const bool configured = [&] {
    TANGRAM_CUDA_CHECK(
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kShared));
    return true;
  }();
  (void)configured;
  cudaLaunchConfig_t config = {};
  config.gridDim = params.plan.num_ranges;
  config.blockDim = kThreads;
  config.dynamicSmemBytes = kShared;
  config.stream = stream;
  cudaLaunchAttribute attribute = {};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  config.attrs = &attribute;
  config.numAttrs = 1;
  TANGRAM_CUDA_CHECK(
      cudaLaunchKernelEx(&config, kernel, *reinterpret_cast<const CUtensorMap*>(&map), params));
}

int RowBytes(const KvView& kv) { return kv.head_dim * static_cast<int>(BytesFor(kv.dtype, 1)); }

// Rows of keys that the kernel's tiles are made for.
bool HasTiles(const KvView& kv) {
  return (RowBytes(kv) == 128 || RowBytes(kv) == 256) && kv.head_dim <= 128;
}

}  // namespace

KvTensorMap MakeKvTensorMap(const KvView& kv) {
  static_assert(sizeof(CUtensorMap) == sizeof(KvTensorMap));
  KvTensorMap map = {};
  if (!RunsHopperCode() || !HasTiles(kv)) return map;
  const int row_bytes = RowBytes(kv);
  TensorMapSpec spec;
  spec.base = kv.pool;
  spec.type = CU_TENSOR_MAP_DATA_TYPE_UINT8;
  spec.rank = 4;
  // Bytes of half a row, rows (K's tokens, then V's), halves, virtual pages.
  const cuuint32_t halves = row_bytes / kSwizzleBytes;
  spec.box = {kSwizzleBytes, 2 * kPageTokens, halves, 1};
  spec.dims = {kSwizzleBytes, 2 * kPageTokens, halves,
               static_cast<cuuint64_t>(kv.num_pages) * kv.group_size};
  spec.strides = {static_cast<cuuint64_t>(row_bytes), kSwizzleBytes,
                  static_cast<cuuint64_t>(2 * kPageTokens) * row_bytes};
  const CUtensorMap encoded = EncodeTensorMap(spec);
  std::memcpy(&map, &encoded, sizeof(map));
  return map;
}

bool DecodeAttentionSm90Supports(const DecodeAttentionParams& params) {
  return HasTiles(params.kv) && params.num_q_heads / params.num_kv_heads <= kHeads;
}

void RunDecodeAttentionSm90(const DecodeAttentionParams& params, const KvTensorMap& map,
                            cudaStream_t stream) {
  if (params.kv.dtype == DType::kF8E4M3) {
    Launch<__nv_fp8_e4m3, 128>(params, map, stream);
  } else if (params.kv.head_dim == 128) {
    Launch<__nv_bfloat16, 128>(params, map, stream);
  } else {
    Launch<__nv_bfloat16, 64>(params, map, stream);
  }
}

}  // namespace tangram::ops::cuda
