#include "ops/cuda/check.h"
#include "ops/cuda/decode_attention.h"
#include "ops/cuda/launch.cuh"

namespace tangram::ops::cuda {
namespace {

constexpr int kInFlight = 5;  // partials of a warp on their way at a time

// The weighted sum of partials of a head, as a lane has it: four dimensions and those 128 further
// on, in the order of the slots.
template <int kVectors>
struct PartialSum {
  float maximum = -INFINITY, sum = 0;
  float4 out[kVectors] = {};

  // Partials first, first + step, ... of a split.
  __device__ void Add(const DecodeAttentionParams& p, const PlanSplit& split, int slot_step,
                      int head, int first, int step) {
    const int group = p.num_q_heads / p.num_kv_heads, dim = p.kv.head_dim;
    for (; first < split.num_slots; first += step * kInFlight) {
      float2 max_sum[kInFlight];
      float4 value[kInFlight][kVectors];
#pragma unroll
      for (int j = 0; j < kInFlight; ++j) {
        const int i = first + j * step;
        if (i >= split.num_slots) break;
        const int64_t slot = i == 0 ? split.first_slot : split.next_slot + (i - 1) * slot_step;
        const int64_t row = slot * group + head;
        max_sum[j] = p.partial_max_sum[row];
#pragma unroll
        for (int k = 0; k < kVectors; ++k) {
          const int d = Dim(k);
          if (d >= dim) break;
          value[j][k] = *reinterpret_cast<const float4*>(p.partial_out + row * dim + d);
        }
      }
#pragma unroll
      for (int j = 0; j < kInFlight; ++j) {
        if (first + j * step >= split.num_slots) break;
        const float new_maximum = fmaxf(maximum, max_sum[j].x);
        const float rescale = exp2f(maximum - new_maximum);
        const float weight = exp2f(max_sum[j].x - new_maximum);
        maximum = new_maximum;
        sum = sum * rescale + weight * max_sum[j].y;
#pragma unroll
        for (int k = 0; k < kVectors; ++k) {
          out[k].x = out[k].x * rescale + weight * value[j][k].x;
          out[k].y = out[k].y * rescale + weight * value[j][k].y;
          out[k].z = out[k].z * rescale + weight * value[j][k].z;
          out[k].w = out[k].w * rescale + weight * value[j][k].w;
        }
      }
    }
  }
  __device__ static int Dim(int k) { return k * 128 + 4 * (threadIdx.x % 32); }
};

// For entries of few partials: a block a split, a warp a query head. It needs no shared memory, so
// that one block stands beside each of the attention's from the start, waiting, and leaves a
// multiprocessor that is done to the next kernel, which may begin to read.
template <int kVectors>
__global__ void __launch_bounds__(256) CombineFewKernel(DecodeAttentionParams p) {
  LaunchDependents();
  // The attention started this kernel after the plan was there.
  if (static_cast<int>(blockIdx.x) >= *p.plan.num_splits) return WaitForPriorKernels();
  const PlanSplit split = p.plan.splits[blockIdx.x];
  WaitForPriorKernels();
  const int group = p.num_q_heads / p.num_kv_heads, head = threadIdx.x / 32;
  PartialSum<kVectors> all;
  all.Add(p, split, 2, head, 0, 1);
  const float inverse = 1 / all.sum;
  __nv_bfloat16* out = p.out + (int64_t{split.entry} * group + head) * p.kv.head_dim;
#pragma unroll
  for (int k = 0; k < kVectors; ++k) {
    const int d = all.Dim(k);
    if (d >= p.kv.head_dim) break;
    const __nv_bfloat162 pairs[2] = {
        __floats2bfloat162_rn(all.out[k].x * inverse, all.out[k].y * inverse),
        __floats2bfloat162_rn(all.out[k].z * inverse, all.out[k].w * inverse)};
    *reinterpret_cast<uint2*>(out + d) = *reinterpret_cast<const uint2*>(pairs);
  }
}

// For entries of many: one block a query head of a split entry; each of its warps takes every
// kWarps-th partial. Latency is all there is to it: two loads one after the other, the split and
// its partials, all of them at once.
template <int kVectors, int kWarps>
__global__ void __launch_bounds__(kWarps * 32, 32 / kWarps)
    CombineManyKernel(DecodeAttentionParams p, int slot_step) {
  __shared__ float shared_out[kWarps][kVectors * 128];
  __shared__ float2 shared_max_sum[kWarps];
  WaitForPriorKernels();
  LaunchDependents();
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int group = p.num_q_heads / p.num_kv_heads;
  const int dim = p.kv.head_dim;
  const int head = blockIdx.x % group;
  const int blocks_per_head = gridDim.x / group;
  PlanSplit split = p.plan.splits[blockIdx.x / group];
  const int num_splits = *p.plan.num_splits;
  for (int index = blockIdx.x / group; index < num_splits; index += blocks_per_head) {
    if (index >= blocks_per_head) split = p.plan.splits[index];
    PartialSum<kVectors> own;
    own.Add(p, split, slot_step, head, warp, kWarps);
#pragma unroll
    for (int k = 0; k < kVectors; ++k) {
      *reinterpret_cast<float4*>(&shared_out[warp][own.Dim(k)]) = own.out[k];
    }
    if (lane == 0) shared_max_sum[warp] = {own.maximum, own.sum};
    __syncthreads();
    const int64_t out_row = int64_t{split.entry} * group + head;  // entry = t*Hkv + h
    for (int d = threadIdx.x; d < dim; d += blockDim.x) {
      float all_maximum = -INFINITY, all_sum = 0, result = 0;
#pragma unroll
      for (int w = 0; w < kWarps; ++w) all_maximum = fmaxf(all_maximum, shared_max_sum[w].x);
#pragma unroll
      for (int w = 0; w < kWarps; ++w) {
        const float weight =
            exp2f(shared_max_sum[w].x - all_maximum);  // 0 of a warp without partials
        all_sum += weight * shared_max_sum[w].y;
        result += weight * shared_out[w][d];
      }
      p.out[out_row * dim + d] = __float2bfloat16(result / all_sum);
    }
    __syncthreads();
  }
}

template <int kVectors>
void LaunchFew(const DecodeAttentionParams& params, cudaStream_t stream) {
  const auto kernel = CombineFewKernel<kVectors>;
  // Shared memory as the attention divides it, or they could not stand side by side.
  [[maybe_unused]] static const bool set = [&] {
    TANGRAM_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                                            cudaSharedmemCarveoutMaxShared));
    return true;
  }();
  LaunchChained(kernel, params.plan.num_ranges, params.num_q_heads / params.num_kv_heads * 32,
                stream, params);
}

}  // namespace

// Launched while the attention still runs; waits for it on the device. Where there are entries
// enough, few partials are an entry's.
void RunDecodeCombine(const DecodeAttentionParams& params, cudaStream_t stream) {
  const int group = params.num_q_heads / params.num_kv_heads;
  const bool invariant = params.plan.mode == SplitMode::kBatchInvariant;
  // (The order of sums hangs on the number of warps, so in batch-invariant mode that is fixed.)
  const bool few =
      !invariant && group <= 8 && 4 * params.plan.num_entries >= params.plan.num_ranges;
  const bool wide = params.kv.head_dim > 128;
  if (few) return wide ? LaunchFew<2>(params, stream) : LaunchFew<1>(params, stream);
  const auto launch = [&](auto kernel) {
    LaunchChained(kernel, params.plan.num_ranges * group, 256, stream, params, invariant ? 1 : 2);
  };
  wide ? launch(CombineManyKernel<2, 8>) : launch(CombineManyKernel<1, 8>);
}

}  // namespace tangram::ops::cuda
