#include "ops/cuda/launch.cuh"
#include "ops/cuda/score_queries.h"

namespace tangram::ops::cuda {
namespace {

constexpr int kThreads = 256;

// A block takes `tokens` adjacent tokens, one after another: many where few are kept.
__global__ void __launch_bounds__(kThreads)
    KeepQueriesKernel(const __grid_constant__ KeepQueriesParams p, int tokens) {
  WaitForPriorKernels();
  LaunchDependents();
  const int vectors = p.kept.num_q_heads * p.head_dim / 8;
  const int row_vectors = vectors + 2 * p.num_kv_heads * p.head_dim / 8;
  const int first = blockIdx.x * tokens, end = min(first + tokens, p.num_tokens);
  for (int t = first; t < end; ++t) {
    const int position = p.position[t];
    const int place = position % p.chunk - (p.chunk - p.kept.count);
    if (position < 0 || place < 0) continue;
    const uint4* from = reinterpret_cast<const uint4*>(p.qkv) + int64_t{t} * row_vectors;
    const int64_t row = (int64_t{p.slot[t]} * p.kept.num_layers + p.layer) * p.kept.count + place;
    uint4* to = reinterpret_cast<uint4*>(p.kept.data) + row * vectors;
    for (int i = threadIdx.x; i < vectors; i += kThreads) to[i] = from[i];
  }
}

}  // namespace

void RunKeepQueries(const KeepQueriesParams& params, cudaStream_t stream) {
  if (params.num_tokens == 0) return;
  const int tokens = params.kept.count < params.chunk ? 8 : 1;
  LaunchChained(KeepQueriesKernel, (params.num_tokens + tokens - 1) / tokens, kThreads, stream,
                params, tokens);
}

}  // namespace tangram::ops::cuda
