#include "ops/cuda/compress/score_queries.h"
#include "ops/cuda/launch.cuh"

namespace tangram::ops::cuda {
namespace {

constexpr int kThreads = 256;

// A block a token.
__global__ void __launch_bounds__(kThreads)
    KeepQueriesKernel(const __grid_constant__ KeepQueriesParams p) {
  WaitForPriorKernels();
  LaunchDependents();
  const int position = p.position[blockIdx.x];
  const int place = position % p.chunk - (p.chunk - p.kept.count);
  if (position < 0 || place < 0) return;
  const int vectors = p.kept.num_q_heads * p.head_dim / 8;
  const int row_vectors = vectors + 2 * p.num_kv_heads * p.head_dim / 8;
  const uint4* from = reinterpret_cast<const uint4*>(p.qkv) + int64_t{blockIdx.x} * row_vectors;
  const int64_t row =
      (int64_t{p.slot[blockIdx.x]} * p.kept.num_layers + p.layer) * p.kept.count + place;
  uint4* to = reinterpret_cast<uint4*>(p.kept.data) + row * vectors;
  for (int i = threadIdx.x; i < vectors; i += kThreads) to[i] = from[i];
}

}  // namespace

void RunKeepQueries(const KeepQueriesParams& params, cudaStream_t stream) {
  if (params.num_tokens == 0) return;
  LaunchChained(KeepQueriesKernel, params.num_tokens, kThreads, stream, params);
}

}  // namespace tangram::ops::cuda
