#pragma once

#include <cuda_fp8.h>

#include "ops/cuda/ptx_sm80.cuh"

namespace tangram::ops::cuda {

// Eight e4m3 values as bf16; every one is exact.
__device__ __forceinline__ uint4 ExpandFp8(uint2 raw) {
  const __nv_fp8x4_e4m3* four = reinterpret_cast<const __nv_fp8x4_e4m3*>(&raw);
  const float4 a = static_cast<float4>(four[0]), b = static_cast<float4>(four[1]);
  return {ptx::PackBf16(a.x, a.y), ptx::PackBf16(a.z, a.w), ptx::PackBf16(b.x, b.y),
          ptx::PackBf16(b.z, b.w)};
}

}  // namespace tangram::ops::cuda
