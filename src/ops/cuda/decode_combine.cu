#include "ops/cuda/check.h"
#include "ops/cuda/decode_attention.h"
#include "ops/cuda/launch.cuh"

namespace tangram::ops::cuda {
namespace {

constexpr int kInFlight = 5;  // partials of a warp on their way at a time

// One block a query head of a split entry; each of its warps takes every kWarps-th partial, a lane
// four dimensions (and those 128 further on). Latency is all there is to it: two loads one after
// the other, the split and its partials, all of them at once.
template <int kVectors, int kWarps>
__global__ void __launch_bounds__(kWarps * 32, 32 / kWarps)
    DecodeCombineKernel(DecodeAttentionParams p, int slot_step) {
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
    float maximum = -INFINITY, sum = 0;
    float4 out[kVectors] = {};
    for (int first = warp; first < split.num_slots; first += kWarps * kInFlight) {
      float2 max_sum[kInFlight];
      float4 value[kInFlight][kVectors];
#pragma unroll
      for (int j = 0; j < kInFlight; ++j) {
        const int i = first + j * kWarps;
        if (i >= split.num_slots) break;
        const int64_t slot = i == 0 ? split.first_slot : split.next_slot + (i - 1) * slot_step;
        const int64_t row = slot * group + head;
        max_sum[j] = p.partial_max_sum[row];
#pragma unroll
        for (int k = 0; k < kVectors; ++k) {
          const int d = k * 128 + 4 * lane;
          if (d >= dim) break;
          value[j][k] = *reinterpret_cast<const float4*>(p.partial_out + row * dim + d);
        }
      }
#pragma unroll
      for (int j = 0; j < kInFlight; ++j) {
        if (first + j * kWarps >= split.num_slots) break;
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
#pragma unroll
    for (int k = 0; k < kVectors; ++k) {
      *reinterpret_cast<float4*>(&shared_out[warp][k * 128 + 4 * lane]) = out[k];
    }
    if (lane == 0) shared_max_sum[warp] = {maximum, sum};
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

}  // namespace

// Launched while the last blocks of the attention still run; waits for them on the device. Where
// there are entries enough, few partials are an entry's: blocks of two warps then fit on the
// multiprocessors that are done first, so that none has still to start when the last is done.
void RunDecodeCombine(const DecodeAttentionParams& params, cudaStream_t stream) {
  const int group = params.num_q_heads / params.num_kv_heads;
  const bool invariant = params.plan.mode == SplitMode::kBatchInvariant;
  const auto launch = [&](auto kernel, int warps) {
    LaunchChained(kernel, params.plan.num_ranges * group, warps * 32, stream, params,
                  invariant ? 1 : 2);
  };
  // (The order of sums hangs on the number of warps, so in batch-invariant mode that is fixed.)
  const bool many = !invariant && 2 * params.plan.num_entries >= params.plan.num_ranges;
  if (params.kv.head_dim > 128) return launch(DecodeCombineKernel<2, 8>, 8);
  many ? launch(DecodeCombineKernel<1, 2>, 2) : launch(DecodeCombineKernel<1, 8>, 8);
}

}  // namespace tangram::ops::cuda
