#pragma once

#include <cuda_runtime_api.h>
#include <vector_functions.h>

#include <cstdint>

// The random numbers of sampling, on the device and on the host.

namespace tangram::ops::cuda {

__host__ __device__ inline uint32_t HighProduct(uint32_t a, uint32_t b) {
#ifdef __CUDA_ARCH__
  return __umulhi(a, b);
#else
  return static_cast<uint32_t>(uint64_t{a} * b >> 32);
#endif
}

// Philox-4x32-10 (Salmon et al., SC'11).
__host__ __device__ inline uint4 Philox(uint4 counter, uint2 key) {
#ifdef __CUDA_ARCH__
#pragma unroll
#endif
  for (int round = 0; round < 10; ++round) {
    const uint32_t high0 = HighProduct(0xD2511F53u, counter.x), low0 = 0xD2511F53u * counter.x;
    const uint32_t high1 = HighProduct(0xCD9E8D57u, counter.z), low1 = 0xCD9E8D57u * counter.z;
    counter = make_uint4(high1 ^ counter.y ^ key.x, low1, high0 ^ counter.w ^ key.y, low0);
    key.x += 0x9E3779B9u, key.y += 0xBB67AE85u;
  }
  return counter;
}

// Uniform in (0, 1), never 0 or 1: one of 2^23 numbers, since with a bit more the half that keeps
// them off the ends would be rounded, the last one to 1.
__host__ __device__ inline float UnitInterval(uint32_t bits) {
  return (static_cast<float>(bits >> 9) + 0.5f) * 0x1p-23f;
}

}  // namespace tangram::ops::cuda
