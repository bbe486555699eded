#include "ops/cuda/check.h"
#include "ops/cuda/compress/query_block.cuh"
#include "ops/cuda/compress/received_attention.h"
#include "ops/cuda/kv_dispatch.cuh"
#include "ops/cuda/launch.cuh"

// Two launches: the denominators of every query's softmax, then what each key gets from all
// queries. A block has its keys to itself and takes the queries in their order, so sums have one
// order.

namespace tangram::ops::cuda {
namespace {

int QueryBlocks(const CudaStepQueries& step) {
  return (step.num_tokens * (step.num_q_heads / step.num_kv_heads) + kBlockQueries - 1) /
         kBlockQueries;
}

// The KV head blockIdx.x, its row and its queries.
struct Head {
  CompressRow row{};
  QueryRows queries;
  int history;

  __device__ explicit Head(const CudaStepQueries& p) {
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

  // Behind the keys that some query of block b sees.
  __device__ int KeysSeen(int b) const {
    const int last_row = min((b + 1) * kBlockQueries, queries.count) - 1;
    return queries.first_keys + last_row / queries.group;
  }
};

// Block (head, 128 queries): base-2 logarithms of the denominators, [Hkv][query rows, padded].
template <class Kv, int kDim>
__global__ void __launch_bounds__(kScoreThreads)
    LogSumKernel(const __grid_constant__ CudaStepQueries p) {
  __shared__ DenominatorShared<Kv, kDim> shared;
  WaitForPriorKernels();
  LaunchDependents();
  const Head head(p);
  QueryBlock<Kv, kDim> block;
  block.Load(head.queries, blockIdx.y * kBlockQueries);
  const float2 sum = Denominators(block, head.row, p.kv.pool, 0, head.KeysSeen(blockIdx.y),
                                  p.scale * kLog2E, shared);
  if (threadIdx.x < kBlockQueries) {  // rows without a query weigh nothing
    p.scratch[(int64_t{blockIdx.x} * gridDim.y + blockIdx.y) * kBlockQueries + threadIdx.x] =
        sum.y > 0 ? sum.x + log2f(sum.y) : INFINITY;
  }
}

// The largest attention of any query, kept as its base-2 logarithm.
struct Largest {
  CudaMaxAttentionParams params;
  static constexpr float kNothing = -INFINITY;
  __device__ static float Of(float log_weight) { return log_weight; }
  __device__ static float Join(float a, float b) { return fmaxf(a, b); }
  // Keys [Begin, End) of a row are asked for, and seen by queries that see `Window` keys more.
  __device__ int Begin(int history) const { return history - params.count; }
  __device__ int End(int history) const { return history; }
  __device__ int Window() const { return 0; }
  __device__ void Write(float& out, float largest) const { out = exp2f(largest); }
};

// The sum over all queries.
struct Sum {
  CudaSumAttentionParams params;
  static constexpr float kNothing = 0;
  __device__ static float Of(float log_weight) { return exp2f(log_weight); }
  __device__ static float Join(float a, float b) { return a + b; }
  __device__ int Begin(int) const { return 0; }
  __device__ int End(int history) const { return history + params.step.num_tokens; }
  __device__ int Window() const { return params.window; }
  __device__ void Write(float& out, float sum) const { out += sum; }
};

// Block (head, 64 keys).
template <class Kv, int kDim, class Receive>
__global__ void __launch_bounds__(kScoreThreads)
    ReceiveKernel(const __grid_constant__ Receive receive, int query_blocks) {
  __shared__ alignas(16) __nv_bfloat16 tile[KeyTile<Kv, kDim>::kElements];
  __shared__ float log_sums[kBlockQueries];
  __shared__ float received[kScoreWarps][kTileKeys];  // by tile of 16 queries
  WaitForPriorKernels();
  LaunchDependents();
  const CudaStepQueries& p = receive.params.step;
  const Head head(p);
  const int begin = receive.Begin(head.history), end = receive.End(head.history);
  const int first = begin + blockIdx.y * kTileKeys, lane = threadIdx.x % 32;
  if (first >= end) return;
  KeyTile<Kv, kDim> keys;
  keys.Load(head.row, p.kv.pool, first, end);
  keys.Store(tile);
  for (int i = threadIdx.x; i < kScoreWarps * kTileKeys; i += kScoreThreads) {
    (&received[0][0])[i] = Receive::kNothing;
  }
  for (int b = 0; b < query_blocks; ++b) {
    if (head.KeysSeen(b) - receive.Window() <= first) continue;  // later queries see more
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
        const int key = first + n * 8 + lane % 4 * 2 + i + receive.Window();
        float of[2];
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          of[half] = key < block.limit[half]
                         ? Receive::Of(c[2 * half + i] * (p.scale * kLog2E) - own[8 * half])
                         : Receive::kNothing;
        }
        float all = Receive::Join(of[0], of[1]);
#pragma unroll
        for (int step = 4; step < 32; step *= 2) {
          all = Receive::Join(all, __shfl_xor_sync(~0u, all, step));
        }
        float& before = received[block.query_tile][n * 8 + lane % 4 * 2 + i];
        if (lane < 4) before = Receive::Join(before, all);
      }
    }
  }
  __syncthreads();
  const int key = first + threadIdx.x;
  if (threadIdx.x >= kTileKeys || key >= end) return;
  float all = Receive::kNothing;
  for (const auto& of_tile : received) all = Receive::Join(all, of_tile[threadIdx.x]);
  receive.Write(receive.params.out[int64_t{key - begin} * p.num_kv_heads + blockIdx.x], all);
}

// `most`: keys of a row that are asked for.
template <class Receive>
void Launch(const Receive& receive, int most, cudaStream_t stream) {
  const CudaStepQueries& step = receive.params.step;
  if (step.num_tokens == 0 || most == 0) return;
  const int query_blocks = QueryBlocks(step);
  DispatchKv(step.kv, "received attention", [&](auto kv, auto dim) {
    using Kv = typename decltype(kv)::Type;
    LaunchChained(LogSumKernel<Kv, dim.value>, dim3(step.num_kv_heads, query_blocks), kScoreThreads,
                  stream, step);
    LaunchChained(ReceiveKernel<Kv, dim.value, Receive>,
                  dim3(step.num_kv_heads, (most + kTileKeys - 1) / kTileKeys), kScoreThreads,
                  stream, receive, query_blocks);
  });
}

}  // namespace

size_t StepQueriesScratchBytes(const CudaStepQueries& step) {
  return sizeof(float) * step.num_kv_heads * QueryBlocks(step) * kBlockQueries;
}

void RunMaxAttention(const CudaMaxAttentionParams& params, cudaStream_t stream) {
  Launch(Largest{params}, params.count, stream);
}

void RunSumAttention(const CudaSumAttentionParams& params, cudaStream_t stream) {
  Launch(Sum{params}, params.max_history + params.step.num_tokens, stream);
}

}  // namespace tangram::ops::cuda
