#pragma once

#include <cuda_bf16.h>
#include <cuda_fp8.h>

namespace tangram::ops::cuda {

// Eight consecutive elements of the pool as f32; `in` is aligned to them.
__device__ __forceinline__ void Load8(const __nv_bfloat16* in, float (&x)[8]) {
  const uint4 raw = *reinterpret_cast<const uint4*>(in);
  const __nv_bfloat162* pairs = reinterpret_cast<const __nv_bfloat162*>(&raw);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float2 pair = __bfloat1622float2(pairs[i]);
    x[2 * i] = pair.x, x[2 * i + 1] = pair.y;
  }
}
__device__ __forceinline__ void Load8(const __nv_fp8_e4m3* in, float (&x)[8]) {
  const uint2 raw = *reinterpret_cast<const uint2*>(in);
  const __nv_fp8x4_e4m3* quads = reinterpret_cast<const __nv_fp8x4_e4m3*>(&raw);
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const float4 quad = static_cast<float4>(quads[i]);
    x[4 * i] = quad.x, x[4 * i + 1] = quad.y, x[4 * i + 2] = quad.z, x[4 * i + 3] = quad.w;
  }
}

}  // namespace tangram::ops::cuda
