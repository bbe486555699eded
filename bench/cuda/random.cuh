#pragma once

#include <cuda_bf16.h>
#include <cuda_fp8.h>

#include <cstdint>

#include "ops/cuda/check.h"

namespace tangram::bench {

__host__ __device__ inline uint64_t Hash(uint64_t x) {  // SplitMix64's finaliser
  x += 0x9e3779b97f4a7c15ull;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return x ^ (x >> 31);
}
// About normal, of variance 1: a sum of four uniform numbers.
__host__ __device__ inline float HashNormal(uint64_t seed, uint64_t i) {
  const uint64_t h = Hash(seed ^ Hash(i));
  float sum = 0;
  for (int k = 0; k < 4; ++k) sum += static_cast<float>(h >> (16 * k) & 0xffff) / 65536.0f - 0.5f;
  return 1.7320508f * sum;
}

template <class T>
__global__ void FillNormalKernel(T* data, size_t size, uint64_t seed, float scale) {
  for (size_t i = blockIdx.x * size_t{blockDim.x} + threadIdx.x; i < size;
       i += size_t{gridDim.x} * blockDim.x) {
    data[i] = T(scale * HashNormal(seed, i));
  }
}
template <class T>
void FillNormal(T* data, size_t size, uint64_t seed, float scale) {
  FillNormalKernel<<<2048, 256>>>(data, size, seed, scale);
  TANGRAM_CUDA_CHECK_LAUNCH();
}

}  // namespace tangram::bench
