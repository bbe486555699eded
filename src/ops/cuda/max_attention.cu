#include "ops/cuda/check.h"
#include "ops/cuda/kv_dispatch.cuh"
#include "ops/cuda/launch.cuh"
#include "ops/cuda/max_attention.h"
#include "ops/cuda/query_block.cuh"

// Two launches: the denominators of every query's softmax, then the largest weight of each key.

namespace tangram::ops::cuda {
namespace {

int QueryBlocks(const CudaMaxAttentionParams& p) {
  return (p.num_tokens * (p.num_q_heads / p.num_kv_heads) + kBlockQueries - 1) / kBlockQueries;
}

// The KV head blockIdx.x, its row and its queries.
struct Head {
  CompressRow row{};
  QueryRows queries;
  int history;

  __device__ explicit Head(const CudaMaxAttentionParams& p) {
    const int head = blockIdx.x, place = p.layer * p.num_kv_heads + head;
    const int group = p.num_q_heads / p.num_kv_heads, kv_row = p.kv.head_row[place];
    row.pages =
        p.kv.page_table + (int64_t{p.slot} * p.kv.num_rows + kv_row) * p.kv.max_pages_per_row;
    row.column = p.kv.head_column[place];
    row.group_size = p.kv.group_size;
    history = p.row_history[kv_row];
    queries = {p.qkv + int64_t{head} * group * p.kv.head_dim,
               int64_t{p.num_q_heads + 2 * p.num_kv_heads} * p.kv.head_dim, group,
               p.num_tokens * group, history + 1};
  }
};

// Block (head, 128 queries): base-2 logarithms of the denominators, [Hkv][query rows, padded].
template <class Kv, int kDim>
__global__ void __launch_bounds__(kScoreThreads)
    LogSumKernel(const __grid_constant__ CudaMaxAttentionParams p) {
  __shared__ DenominatorShared<Kv, kDim> shared;
  WaitForPriorKernels();
  LaunchDependents();
  const Head head(p);
  QueryBlock<Kv, kDim> block;
  block.Load(head.queries, blockIdx.y * kBlockQueries);
  const float2 sum = Denominators(block, head.row, p.kv.pool, 0, head.history + p.num_tokens,
                                  p.scale * kLog2E, shared);
  if (threadIdx.x < kBlockQueries) {  // rows without a query weigh nothing
    p.scratch[(int64_t{blockIdx.x} * gridDim.y + blockIdx.y) * kBlockQueries + threadIdx.x] =
        sum.y > 0 ? sum.x + log2f(sum.y) : INFINITY;
  }
}

// Block (head, 64 of the tokens).
template <class Kv, int kDim>
__global__ void __launch_bounds__(kScoreThreads)
    MaxKernel(const __grid_constant__ CudaMaxAttentionParams p, int query_blocks) {
  __shared__ alignas(16) __nv_bfloat16 tile[KeyTile<Kv, kDim>::kElements];
  __shared__ float log_sums[kBlockQueries];
  __shared__ float largest[kScoreWarps][kTileKeys];
  WaitForPriorKernels();
  LaunchDependents();
  const Head head(p);
  const int first = head.history - p.count + blockIdx.y * kTileKeys;
  const int lane = threadIdx.x % 32;
  KeyTile<Kv, kDim> keys;
  keys.Load(head.row, p.kv.pool, first, head.history);
  keys.Store(tile);
  for (int i = threadIdx.x; i < kScoreWarps * kTileKeys; i += kScoreThreads) {
    (&largest[0][0])[i] = -INFINITY;
  }
  for (int b = 0; b < query_blocks; ++b) {
    QueryBlock<Kv, kDim> block;
    block.Load(head.queries, b * kBlockQueries);
    __syncthreads();
    if (threadIdx.x < kBlockQueries) {
      log_sums[threadIdx.x] =
          p.scratch[(int64_t{blockIdx.x} * query_blocks + b) * kBlockQueries + threadIdx.x];
    }
    __syncthreads();
    if (!block.active) continue;
    const float* own = log_sums + block.query_tile * 16 + lane / 4;
    for (int n = block.key_group; n < kTileKeys / 8; n += block.key_groups) {
      float c[4];
      block.Logits(tile, n, c);
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        float best =
            fmaxf(c[i] * (p.scale * kLog2E) - own[0], c[2 + i] * (p.scale * kLog2E) - own[8]);
#pragma unroll
        for (int step = 4; step < 32; step *= 2) {
          best = fmaxf(best, __shfl_xor_sync(~0u, best, step));
        }
        float& before = largest[block.query_tile][n * 8 + lane % 4 * 2 + i];
        if (lane < 4) before = fmaxf(before, best);
      }
    }
  }
  __syncthreads();
  const int token = blockIdx.y * kTileKeys + threadIdx.x;
  if (threadIdx.x >= kTileKeys || token >= p.count) return;
  float best = -INFINITY;
  for (const auto& of_tile : largest) best = fmaxf(best, of_tile[threadIdx.x]);
  p.out[int64_t{token} * p.num_kv_heads + blockIdx.x] = exp2f(best);
}

template <class Kv, int kDim>
void Launch(const CudaMaxAttentionParams& params, cudaStream_t stream) {
  const int query_blocks = QueryBlocks(params);
  LaunchChained(LogSumKernel<Kv, kDim>, dim3(params.num_kv_heads, query_blocks), kScoreThreads,
                stream, params);
  LaunchChained(MaxKernel<Kv, kDim>,
                dim3(params.num_kv_heads, (params.count + kTileKeys - 1) / kTileKeys),
                kScoreThreads, stream, params, query_blocks);
}

}  // namespace

size_t MaxAttentionScratchBytes(const CudaMaxAttentionParams& params) {
  return sizeof(float) * params.num_kv_heads * QueryBlocks(params) * kBlockQueries;
}

void RunMaxAttention(const CudaMaxAttentionParams& params, cudaStream_t stream) {
  if (params.num_tokens == 0 || params.count == 0) return;
  DispatchKv<64, 128, 256>(params.kv, "largest attention", [&](auto kv, auto dim) {
    Launch<typename decltype(kv)::Type, dim.value>(params, stream);
  });
}

}  // namespace tangram::ops::cuda
