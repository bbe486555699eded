#include "ops/cuda/check.h"
#include "ops/cuda/decode_attention.h"

namespace tangram::ops::cuda {
namespace {

constexpr int kThreads = 128;

// A warp a query head, a lane four dimensions. Weights come first, one partial a lane, so that the sums of values are
// independent loads.
__global__ void __launch_bounds__(kThreads) DecodeCombineKernel(DecodeAttentionParams p, int slot_step) {
#if __CUDA_ARCH__ >= 900
  cudaGridDependencySynchronize();
#endif
  const int lane = threadIdx.x % 32;
  const int group = p.num_q_heads / p.num_kv_heads;
  const int dim = p.kv.head_dim;
  const int num_rows = *p.plan.num_splits * group;
  const int num_warps = gridDim.x * (kThreads / 32);
  for (int row = blockIdx.x * (kThreads / 32) + threadIdx.x / 32; row < num_rows; row += num_warps) {
    const PlanSplit split = p.plan.splits[row / group];
    const int head = row % group;
    auto slot = [&](int i) {
      return int64_t{i == 0 ? split.first_slot : split.next_slot + (i - 1) * slot_step};
    };
    float maximum = -INFINITY;
    for (int i = lane; i < split.num_slots; i += 32) {
      maximum = fmaxf(maximum, p.partial_max_sum[slot(i) * group + head].x);
    }
#pragma unroll
    for (int step = 16; step > 0; step /= 2) {
      maximum = fmaxf(maximum, __shfl_xor_sync(~0u, maximum, step));
    }
    const int64_t token = split.entry / p.num_kv_heads;
    const int q_head = split.entry % p.num_kv_heads * group + head;
    __nv_bfloat16* out = p.out + (token * p.num_q_heads + q_head) * dim;
    for (int first_dim = 0; first_dim < dim; first_dim += 128) {
      const int d = first_dim + 4 * lane;
      float4 result = {0, 0, 0, 0};
      float sum = 0;
      for (int base = 0; base < split.num_slots; base += 32) {
        const int count = min(32, split.num_slots - base);
        float weight = 0;
        if (lane < count) {
          const float2 max_sum = p.partial_max_sum[slot(base + lane) * group + head];
          weight = exp2f(max_sum.x - maximum);
          sum += weight * max_sum.y;
        }
#pragma unroll 8
        for (int i = 0; i < count; ++i) {
          const float w = __shfl_sync(~0u, weight, i);
          if (d < dim) {
            const float4 value = *reinterpret_cast<const float4*>(
                p.partial_out + (slot(base + i) * group + head) * dim + d);
            result.x += w * value.x, result.y += w * value.y;
            result.z += w * value.z, result.w += w * value.w;
          }
        }
      }
#pragma unroll
      for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(~0u, sum, step);
      if (d < dim) {
        const float inverse = 1 / sum;
        __nv_bfloat162 pair[2] = {
            __floats2bfloat162_rn(result.x * inverse, result.y * inverse),
            __floats2bfloat162_rn(result.z * inverse, result.w * inverse)};
        *reinterpret_cast<uint2*>(out + d) = *reinterpret_cast<const uint2*>(pair);
      }
    }
  }
}

}  // namespace

void RunDecodeCombine(const DecodeAttentionParams& params, cudaStream_t stream) {
  const int group = params.num_q_heads / params.num_kv_heads;
  const int slot_step = params.plan.mode == SplitMode::kEqualRanges ? 2 : 1;
  const int warps = kThreads / 32;
  cudaLaunchConfig_t config = {};
  config.gridDim = (params.plan.num_ranges * group + warps - 1) / warps;
  config.blockDim = kThreads;
  config.stream = stream;
  // Starts while the last blocks of the attention still run, and waits for them on the device.
  cudaLaunchAttribute attribute = {};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  config.attrs = &attribute;
  config.numAttrs = 1;
  TANGRAM_CUDA_CHECK(cudaLaunchKernelEx(&config, DecodeCombineKernel, params, slot_step));
}

}  // namespace tangram::ops::cuda
