#include <cstdio>
#include <cstdlib>

#include "ops/cuda/launch.cuh"
#include "ops/cuda/score_queries.h"

namespace tangram::ops::cuda {
namespace {

constexpr int kDim = 16;
constexpr int kThreads = 128;

__device__ void LoadNormed(float (&x)[kDim], const float* from, const float* weight,
                           float epsilon) {
  float squares = 0;
#pragma unroll
  for (int i = 0; i < kDim; i += 4) {
    const float4 v = *reinterpret_cast<const float4*>(from + i);
    x[i] = v.x, x[i + 1] = v.y, x[i + 2] = v.z, x[i + 3] = v.w;
  }
#pragma unroll
  for (int i = 0; i < kDim; ++i) squares += x[i] * x[i];
  const float scale = rsqrtf(squares / kDim + epsilon);
#pragma unroll
  for (int i = 0; i < kDim; ++i) x[i] *= scale * weight[i];
}

__device__ float Dot(const float (&x)[kDim], const float* y) {
  float sum = 0;
#pragma unroll
  for (int i = 0; i < kDim; ++i) sum += x[i] * y[i];
  return sum;
}

// A thread a token and head: 320 bytes of input, some hundred multiplications a query head.
__global__ void __launch_bounds__(kThreads)
    FastKvzipKernel(const __grid_constant__ FastKvzipParams p) {
  WaitForPriorKernels();
  LaunchDependents();
  const int index = blockIdx.x * kThreads + threadIdx.x;
  if (index >= p.num_tokens * p.num_kv_heads) return;
  const int token = index / p.num_kv_heads, head = index % p.num_kv_heads;
  const float* row = p.projected + int64_t{token} * p.num_kv_heads * (p.group + 1) * kDim;
  float key[kDim];
  LoadNormed(key, row + (p.num_kv_heads * p.group + head) * kDim, p.k_norm, p.epsilon);
  float score = 0;
  for (int g = 0; g < p.group; ++g) {
    float query[kDim];
    LoadNormed(query, row + (head * p.group + g) * kDim, p.q_norm, p.epsilon);
    const float own = Dot(query, key) * 0.25f + p.bias[head * p.group + g];  // 1 / sqrt(16)
    float others = 0;
    for (int s = 0; s < p.num_sinks; ++s) {
      others += __expf(Dot(query, p.base + (head * p.num_sinks + s) * kDim) * 0.25f - own);
    }
    score += 1 / (1 + others);
  }
  p.scores[index] = score / p.group;
}

}  // namespace

void RunFastKvzip(const FastKvzipParams& params, cudaStream_t stream) {
  if (params.num_tokens == 0) return;
  if (params.dim != kDim) {
    std::fprintf(stderr, "Fast KVzip: %d dimensions of its gate\n", params.dim);
    std::abort();
  }
  const int count = params.num_tokens * params.num_kv_heads;
  LaunchChained(FastKvzipKernel, (count + kThreads - 1) / kThreads, kThreads, stream, params);
}

}  // namespace tangram::ops::cuda
