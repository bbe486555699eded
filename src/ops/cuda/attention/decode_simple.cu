#include "ops/cuda/attention/decode_attention.h"
#include "ops/cuda/attention/decode_segments.cuh"
#include "ops/cuda/check.h"
#include "ops/cuda/kv_dispatch.cuh"
#include "ops/cuda/ptx_sm80.cuh"

namespace tangram::ops::cuda {
namespace {

constexpr int kWarps = 8;

__device__ float ToFloat(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ float ToFloat(__nv_fp8_e4m3 x) { return static_cast<float>(x); }

__device__ float WarpSum(float x) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(~0u, x, step);
  return x;
}

// Each warp takes every kWarps-th page of the segment, a lane d/32 dimensions; query heads one
// after the other.
template <class Kv, int kDim>
__global__ void __launch_bounds__(kWarps * 32) DecodeSimpleKernel(DecodeAttentionParams p) {
  constexpr int kPerLane = kDim / 32;
  __shared__ float merged_out[kWarps][kDim];
  __shared__ float2 merged[kWarps];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int group = p.num_q_heads / p.num_kv_heads;
  const Kv* pool = static_cast<const Kv*>(p.kv.pool);

  SegmentWalker walker(p.plan, blockIdx.x);
  Segment segment;
  while (walker.Next(&segment)) {
    const int token = segment.entry / p.num_kv_heads, kv_head = segment.entry % p.num_kv_heads;
    const int32_t* ids = p.kv.page_table + int64_t{segment.table_row} * p.kv.max_pages_per_row;
    for (int head = 0; head < group; ++head) {
      const int q_head = kv_head * group + head;
      float q[kPerLane], out[kPerLane] = {};
      for (int i = 0; i < kPerLane; ++i) {
        q[i] = ToFloat(p.q[token * p.q_stride + q_head * kDim + lane * kPerLane + i]);
      }
      float maximum = -INFINITY, sum = 0;
      for (int page = segment.first_page + warp; page < segment.end_page; page += kWarps) {
        const int64_t virtual_page = int64_t{ids[page]} * p.kv.group_size + segment.column;
        const Kv* k = pool + virtual_page * 2 * kPageTokens * kDim + lane * kPerLane;
        const int tokens = min(kPageTokens, segment.num_tokens - page * kPageTokens);
        for (int t = 0; t < tokens; ++t) {
          float dot = 0;
          for (int i = 0; i < kPerLane; ++i) dot += q[i] * ToFloat(k[t * kDim + i]);
          const float logit = WarpSum(dot) * p.scale * kLog2E;
          const float new_maximum = fmaxf(maximum, logit);
          const float rescale = exp2f(maximum - new_maximum), weight = exp2f(logit - new_maximum);
          maximum = new_maximum;
          sum = sum * rescale + weight;
          for (int i = 0; i < kPerLane; ++i) {
            out[i] = out[i] * rescale + weight * ToFloat(k[(kPageTokens + t) * kDim + i]);
          }
        }
      }
      for (int i = 0; i < kPerLane; ++i) merged_out[warp][lane * kPerLane + i] = out[i];
      if (lane == 0) merged[warp] = {maximum, sum};
      __syncthreads();
      for (int dim = threadIdx.x; dim < kDim; dim += blockDim.x) {
        float all_maximum = -INFINITY, all_sum = 0, result = 0;
        for (int w = 0; w < kWarps; ++w) all_maximum = fmaxf(all_maximum, merged[w].x);
        for (int w = 0; w < kWarps; ++w) {
          const float weight = merged[w].y > 0 ? exp2f(merged[w].x - all_maximum) : 0;
          all_sum += weight * merged[w].y;
          result += weight * merged_out[w][dim];
        }
        if (segment.partial_slot < 0) {
          p.out[(int64_t{token} * p.num_q_heads + q_head) * kDim + dim] =
              __float2bfloat16(result / all_sum);
        } else {
          const int64_t row = int64_t{segment.partial_slot} * group + head;
          p.partial_out[row * kDim + dim] = result;
          if (dim == 0) p.partial_max_sum[row] = {all_maximum, all_sum};
        }
      }
      __syncthreads();
    }
  }
}

}  // namespace

void RunDecodeAttentionSimple(const DecodeAttentionParams& params, cudaStream_t stream) {
  DispatchKv(params.kv, "decode attention", [&](auto kv, auto dim) {
    const auto kernel = DecodeSimpleKernel<typename decltype(kv)::Type, dim.value>;
    kernel<<<params.plan.num_ranges, kWarps * 32, 0, stream>>>(params);
    TANGRAM_CUDA_CHECK_LAUNCH();
  });
}

}  // namespace tangram::ops::cuda
