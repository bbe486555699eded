#include "ops/cuda/attention/decode_attention.h"
#include "ops/cuda/check.h"
#include "ops/cuda/launch.cuh"

namespace tangram::ops::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int kInFlight = 5;  // partials of a lane on their way at a time

// Four dimensions of a weighted sum of partials.
struct PartialSum {
  float maximum = -INFINITY, sum = 0;
  float4 out = {};

  __device__ void Rescale(float new_maximum, float weight, float4 value, float weight_sum) {
    const float rescale = exp2f(maximum - new_maximum);
    maximum = new_maximum;
    sum = sum * rescale + weight * weight_sum;
    out.x = out.x * rescale + weight * value.x;
    out.y = out.y * rescale + weight * value.y;
    out.z = out.z * rescale + weight * value.z;
    out.w = out.w * rescale + weight * value.w;
  }
  __device__ void Add(float2 max_sum, float4 value) {
    const float new_maximum = fmaxf(maximum, max_sum.x);
    Rescale(new_maximum, exp2f(max_sum.x - new_maximum), value, max_sum.y);
  }
  // Adds what the lane `step` away has, in turn for what this one has.
  __device__ void AddLane(int step) {
    const float other_maximum = __shfl_xor_sync(~0u, maximum, step);
    const float other_sum = __shfl_xor_sync(~0u, sum, step);
    const float4 other = {__shfl_xor_sync(~0u, out.x, step), __shfl_xor_sync(~0u, out.y, step),
                          __shfl_xor_sync(~0u, out.z, step), __shfl_xor_sync(~0u, out.w, step)};
    const float all = fmaxf(maximum, other_maximum);
    // 0 of a lane without partials; all may be one of them.
    const float weight = other_maximum == -INFINITY ? 0 : exp2f(other_maximum - all);
    if (all > -INFINITY) Rescale(all, weight, other, other_sum);
  }
};

// A warp has 4 * kLanes dimensions of a query head of a split entry, and takes 32 / kLanes partials
// side by side. It needs no shared memory, so that a block stands beside each of the attention's
// from the start and waits, and takes no multiprocessor that is done from the next kernel, which
// may begin to read.
template <int kLanes>
__global__ void __launch_bounds__(kThreads, 4)  // registers for the attention beside it
    CombineKernel(DecodeAttentionParams p, int slot_step) {
  LaunchDependents();
  constexpr int kSide = 32 / kLanes;
  const int lane = threadIdx.x % 32, dim = p.kv.head_dim;
  const int group = p.num_q_heads / p.num_kv_heads, slices = dim / (4 * kLanes);
  // The attention let this kernel start when the plan was there.
  const int units = *p.plan.num_splits * group * slices;
  int unit = blockIdx.x * kWarps + threadIdx.x / 32;
  PlanSplit split{};
  if (unit < units) split = p.plan.splits[unit / (group * slices)];
  WaitForPriorKernels();
  while (unit < units) {
    const int head = unit / slices % group;
    const int d = unit % slices * (4 * kLanes) + lane % kLanes * 4;
    PartialSum all;
    for (int first = lane / kLanes; first < split.num_slots; first += kSide * kInFlight) {
      float2 max_sum[kInFlight];
      float4 value[kInFlight];
#pragma unroll
      for (int j = 0; j < kInFlight; ++j) {
        const int i = first + j * kSide;
        if (i >= split.num_slots) break;
        const int64_t slot = i == 0 ? split.first_slot : split.next_slot + (i - 1) * slot_step;
        const int64_t row = slot * group + head;
        max_sum[j] = p.partial_max_sum[row];
        value[j] = *reinterpret_cast<const float4*>(p.partial_out + row * dim + d);
      }
#pragma unroll
      for (int j = 0; j < kInFlight; ++j) {
        if (first + j * kSide < split.num_slots) all.Add(max_sum[j], value[j]);
      }
    }
#pragma unroll
    for (int step = kLanes; step < 32; step *= 2) all.AddLane(step);
    if (lane < kLanes) {
      const float inverse = 1 / all.sum;
      const __nv_bfloat162 pairs[2] = {
          __floats2bfloat162_rn(all.out.x * inverse, all.out.y * inverse),
          __floats2bfloat162_rn(all.out.z * inverse, all.out.w * inverse)};
      __nv_bfloat16* out = p.out + (int64_t{split.entry} * group + head) * dim + d;
      *reinterpret_cast<uint2*>(out) = *reinterpret_cast<const uint2*>(pairs);
    }
    unit += gridDim.x * kWarps;
    if (unit < units) split = p.plan.splits[unit / (group * slices)];
  }
}

template <int kLanes>
void Launch(const DecodeAttentionParams& params, cudaStream_t stream) {
  const auto kernel = CombineKernel<kLanes>;
  // Shared memory as the attention divides it, or they could not stand side by side.
  [[maybe_unused]] static const bool set = [&] {
    TANGRAM_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                                            cudaSharedmemCarveoutMaxShared));
    return true;
  }();
  LaunchChained(kernel, params.plan.num_ranges, kThreads, stream, params,
                params.plan.mode == SplitMode::kBatchInvariant ? 1 : 2);
}

}  // namespace

// Launched while the attention still runs; waits for it on the device. The fewer entries, the more
// partials an entry has: two, eight or sixteen side by side. (The order of sums hangs on that, so
// in batch-invariant mode it is fixed.)
void RunDecodeCombine(const DecodeAttentionParams& params, cudaStream_t stream) {
  const int entries = params.plan.num_entries, ranges = params.plan.num_ranges;
  if (params.plan.mode == SplitMode::kBatchInvariant) return Launch<4>(params, stream);
  if (4 * entries >= ranges) return Launch<16>(params, stream);
  16 * entries >= ranges ? Launch<4>(params, stream) : Launch<2>(params, stream);
}

}  // namespace tangram::ops::cuda
