#include <cstdio>
#include <cstdlib>

#include "ops/cuda/compress/score_queries.h"
#include "ops/cuda/launch.cuh"

namespace tangram::ops::cuda {
namespace {

constexpr int kDim = 16;
constexpr int kTokens = 32;     // of a block
constexpr int kMostGroup = 32;  // query heads of a KV head
constexpr int kMostSinks = 512;

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
  for (int i = 0; i < kDim; i += 4) {
    const float4 v = *reinterpret_cast<const float4*>(y + i);
    sum += x[i] * v.x + x[i + 1] * v.y + x[i + 2] * v.z + x[i + 3] * v.w;
  }
  return sum;
}

// A block has tokens of one KV head, a thread one of them and a query head; all read the same sink
// at a time.
__global__ void FastKvzipKernel(const __grid_constant__ FastKvzipParams p) {
  LaunchDependents();
  extern __shared__ float4 sinks_raw[];
  float* sinks = reinterpret_cast<float*>(sinks_raw);
  __shared__ float of_group[kMostGroup][kTokens];
  const int head = blockIdx.y, g = threadIdx.y, token = blockIdx.x * kTokens + threadIdx.x;
  const float* base =
      p.base + int64_t{head} * p.num_sinks * kDim;  // weights: no kernel writes them
  for (int i = g * kTokens + threadIdx.x; i < p.num_sinks * kDim; i += p.group * kTokens) {
    sinks[i] = base[i];
  }
  __syncthreads();
  WaitForPriorKernels();
  if (token < p.num_tokens) {
    const float* row = p.projected + int64_t{token} * p.num_kv_heads * (p.group + 1) * kDim;
    float key[kDim], query[kDim];
    LoadNormed(key, row + (p.num_kv_heads * p.group + head) * kDim, p.k_norm, p.epsilon);
    LoadNormed(query, row + (head * p.group + g) * kDim, p.q_norm, p.epsilon);
    float own = p.bias[head * p.group + g];
#pragma unroll
    for (int i = 0; i < kDim; ++i) own += 0.25f * query[i] * key[i];  // 1 / sqrt(16)
    float others = 0;
    for (int s = 0; s < p.num_sinks; ++s) {
      others += __expf(Dot(query, sinks + s * kDim) * 0.25f - own);
    }
    of_group[g][threadIdx.x] = 1 / (1 + others);
  }
  __syncthreads();
  if (g > 0 || token >= p.num_tokens) return;
  float score = 0;
  for (int i = 0; i < p.group; ++i) score += of_group[i][threadIdx.x];
  p.scores[int64_t{token} * p.num_kv_heads + head] = score / p.group;
}

}  // namespace

void RunFastKvzip(const FastKvzipParams& params, cudaStream_t stream) {
  if (params.num_tokens == 0) return;
  if (params.dim != kDim || params.group > kMostGroup || params.num_sinks > kMostSinks) {
    std::fprintf(stderr,
                 "Fast KVzip: a gate of %d dimensions (16), %d query heads to a KV head (at "
                 "most %d), %d sinks (at most %d)\n",
                 params.dim, params.group, kMostGroup, params.num_sinks, kMostSinks);
    std::abort();
  }
  const dim3 grid((params.num_tokens + kTokens - 1) / kTokens, params.num_kv_heads);
  LaunchChainedShared(FastKvzipKernel, grid, dim3(kTokens, params.group),
                      sizeof(float) * params.num_sinks * kDim, stream, params);
}

}  // namespace tangram::ops::cuda
