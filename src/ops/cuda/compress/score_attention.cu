#include <algorithm>

#include "ops/cuda/check.h"
#include "ops/cuda/compress/query_block.cuh"
#include "ops/cuda/compress/score_queries.h"
#include "ops/cuda/kv_dispatch.cuh"
#include "ops/cuda/launch.cuh"

// Three launches: the denominators of the softmax, from spans of each row; the keys' weights summed
// over the queries; pooling. All the queries of a KV head read a tile of keys together, so that a
// key is read twice in all.

namespace tangram::ops::cuda {
namespace {

constexpr int kSpanKeys =
    1024;  // of a partial denominator: fixed, so that sums do not depend on the grid

struct Layout {
  int span_count;   // partial denominators of a query
  int raw_stride;   // weights of a row
  float2* partial;  // [rows][span_count][queries padded to kBlockQueries]
  float* raw;  // [rows][raw_stride]: by distance from the window, neighbours for the pool included
};

struct KernelParams {
  AttentionScoreParams p;
  Layout layout;
};

__host__ __device__ inline int Group(const AttentionScoreParams& p) {
  return p.queries.num_q_heads / p.rows.num_kv_heads;
}
__host__ __device__ inline int NumQueryRows(const AttentionScoreParams& p) {
  return p.queries.count * Group(p);
}
__host__ __device__ inline int QueryBlocks(const AttentionScoreParams& p) {
  return (NumQueryRows(p) + kBlockQueries - 1) / kBlockQueries;
}

// The chunk's last queries, of the block's row.
template <int kDim>
__device__ QueryRows LastQueries(const AttentionScoreParams& p, const CompressRow& row) {
  const int head = blockIdx.x % p.rows.num_kv_heads;
  const int layer = p.rows.first_layer + blockIdx.x / p.rows.num_kv_heads % p.rows.num_layers;
  const int slot = p.rows.batch.slot[blockIdx.x / (p.rows.num_kv_heads * p.rows.num_layers)];
  const int64_t token = (int64_t{slot} * p.queries.num_layers + layer) * p.queries.count;
  const int64_t stride = int64_t{p.queries.num_q_heads} * kDim;
  return {p.queries.data + token * stride + head * Group(p) * kDim, stride, Group(p),
          NumQueryRows(p), row.old_length - p.queries.count + 1};
}

// Which keys' weights are wanted: the candidates and what the pool sees beside them.
struct RawRange {
  int begin, end;
  int last;  // the candidates' end
  int halo;
  __device__ RawRange(const AttentionScoreParams& p, const CompressRow& row)
      : last(row.first + row.candidates),
        halo(p.pool == AttentionPool::kNone ? 0 : p.pool_kernel / 2) {
    begin = max(0, row.first - halo);
    end = min(row.old_length, last + halo);
  }
  // From the window back, where all rows of a layer hold the same tokens.
  __device__ int Slot(int index) const { return last + halo - 1 - index; }
};

// Whether a row's scores decide nothing.
__device__ bool Skips(const AttentionScoreParams& p, const CompressRow& row) {
  return row.keep >= row.candidates && !p.mean_over_layer;
}

// Block (row, span): the denominators of each query over 1024 keys.
template <class Kv, int kDim>
__global__ void __launch_bounds__(kScoreThreads)
    DenominatorKernel(const __grid_constant__ KernelParams params) {
  __shared__ DenominatorShared<Kv, kDim> shared;
  WaitForPriorKernels();
  LaunchDependents();
  const AttentionScoreParams& p = params.p;
  const CompressRow row = LoadCompressRow(p.rows, blockIdx.x);
  const int begin = blockIdx.y * kSpanKeys, end = min(row.old_length, begin + kSpanKeys);
  if (begin >= end || Skips(p, row)) return;
  const QueryRows rows = LastQueries<kDim>(p, row);
  for (int block = 0; block < QueryBlocks(p); ++block) {
    QueryBlock<Kv, kDim> queries;
    queries.Load(rows, block * kBlockQueries);
    const float2 sum =
        Denominators(queries, row, p.rows.kv.pool, begin, end, p.scale * kLog2E, shared);
    if (threadIdx.x < queries.query_tiles * 16) {
      const int64_t spans = int64_t{blockIdx.x} * params.layout.span_count + blockIdx.y;
      params.layout.partial[(spans * QueryBlocks(p) + block) * kBlockQueries + threadIdx.x] = sum;
    }
  }
}

// Block (row, tile): the weights of 64 keys, summed over the queries.
template <class Kv, int kDim>
__global__ void __launch_bounds__(kScoreThreads)
    WeightKernel(const __grid_constant__ KernelParams params) {
  __shared__ alignas(16) __nv_bfloat16 tile[KeyTile<Kv, kDim>::kElements];
  __shared__ float log_sums[kBlockQueries];
  __shared__ float sums[kScoreWarps][kTileKeys];
  WaitForPriorKernels();
  LaunchDependents();
  const AttentionScoreParams& p = params.p;
  const CompressRow row = LoadCompressRow(p.rows, blockIdx.x);
  const RawRange range(p, row);
  const int first = range.begin + blockIdx.y * kTileKeys;
  const int end = min(range.end, first + kTileKeys);
  if (first >= end || Skips(p, row)) return;
  const float scale_log2 = p.scale * kLog2E;
  const int lane = threadIdx.x % 32;
  KeyTile<Kv, kDim> keys;
  keys.Load(row, p.rows.kv.pool, first, end);
  keys.Store(tile);
  const QueryRows rows = LastQueries<kDim>(p, row);
  float total = 0;  // of one key, of threads < 64
  for (int block = 0; block < QueryBlocks(p); ++block) {
    QueryBlock<Kv, kDim> queries;
    queries.Load(rows, block * kBlockQueries);
    __syncthreads();  // the tile is there; the sums of the block before have been read
    if (threadIdx.x < kBlockQueries) {
      const int used = (row.old_length + kSpanKeys - 1) / kSpanKeys;
      float2 sum = {-INFINITY, 0};
      for (int span = 0; span < used && threadIdx.x < queries.query_tiles * 16; ++span) {
        const int64_t spans = int64_t{blockIdx.x} * params.layout.span_count + span;
        sum = MergeSums(
            sum,
            params.layout.partial[(spans * QueryBlocks(p) + block) * kBlockQueries + threadIdx.x]);
      }
      // Rows without a query weigh nothing.
      log_sums[threadIdx.x] = sum.y > 0 ? sum.x + log2f(sum.y) : INFINITY;
    }
    __syncthreads();
    if (queries.active) {
      for (int n = queries.key_group; n < kTileKeys / 8; n += queries.key_groups) {
        float c[4];
        queries.Logits(tile, n, c);
        const int key = first + n * 8 + lane % 4 * 2;
        float weight[2] = {0, 0};
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const float log_sum = log_sums[queries.query_tile * 16 + half * 8 + lane / 4];
#pragma unroll
          for (int i = 0; i < 2; ++i) {
            if (key + i < queries.limit[half])
              weight[i] += exp2f(c[2 * half + i] * scale_log2 - log_sum);
          }
        }
#pragma unroll
        for (int i = 0; i < 2; ++i) {
#pragma unroll
          for (int step = 4; step < 32; step *= 2) {
            weight[i] += __shfl_xor_sync(~0u, weight[i], step);
          }
          if (lane < 4) sums[queries.query_tile][n * 8 + lane * 2 + i] = weight[i];
        }
      }
    }
    __syncthreads();
    if (threadIdx.x < kTileKeys) {
      for (int t = 0; t < queries.query_tiles; ++t) total += sums[t][threadIdx.x];
    }
  }
  if (threadIdx.x < kTileKeys && first + static_cast<int>(threadIdx.x) < end) {
    params.layout
        .raw[int64_t{blockIdx.x} * params.layout.raw_stride + range.Slot(first + threadIdx.x)] =
        total;
  }
}

__device__ float Pooled(const AttentionScoreParams& p, const RawRange& range, const float* raw,
                        int index) {
  const int half = p.pool_kernel / 2;
  if (p.pool == AttentionPool::kMax) {
    float best = 0;
    for (int i = max(range.begin, index - half); i <= min(range.end - 1, index + half); ++i) {
      best = fmaxf(best, raw[range.Slot(i)]);
    }
    return best;
  }
  float sum = 0;
  for (int i = max(range.begin, index - half); i <= min(range.last - 1, index + half); ++i) {
    sum += raw[range.Slot(i)];
  }
  return sum / p.pool_kernel;
}

// Block (row, 256 candidates).
__global__ void __launch_bounds__(kScoreThreads)
    PoolKernel(const __grid_constant__ KernelParams params) {
  WaitForPriorKernels();
  LaunchDependents();
  const AttentionScoreParams& p = params.p;
  const CompressRow row = LoadCompressRow(p.rows, blockIdx.x);
  const int candidate = blockIdx.y * kScoreThreads + threadIdx.x;
  if (candidate >= row.candidates || row.keep >= row.candidates) return;
  const int index = row.first + candidate;
  const RawRange range(p, row);
  const float* raw = params.layout.raw + int64_t{blockIdx.x} * params.layout.raw_stride;
  float score = 0;
  if (p.mean_over_layer) {
    const float* layer = raw - int64_t{blockIdx.x % p.rows.num_kv_heads} * params.layout.raw_stride;
    for (int head = 0; head < p.rows.num_kv_heads; ++head) {
      score += layer[int64_t{head} * params.layout.raw_stride + range.Slot(index)];
    }
    score /= p.queries.count * p.queries.num_q_heads;
  } else {
    score =
        (p.pool == AttentionPool::kNone ? raw[range.Slot(index)] : Pooled(p, range, raw, index)) /
        NumQueryRows(p);
  }
  p.rows.scores[row.VirtualPage(index) * kPageTokens + index % kPageTokens] = score;
}

int Rows(const CompressParams& rows) {
  return rows.batch.size * rows.num_layers * rows.num_kv_heads;
}

Layout MakeLayout(const AttentionScoreParams& p) {
  Layout layout;
  layout.span_count = (p.max_tokens + kSpanKeys - 1) / kSpanKeys;
  layout.raw_stride = p.rows.tables.chunk + p.rows.window + p.pool_kernel + 1;
  layout.partial = static_cast<float2*>(p.scratch);
  layout.raw = reinterpret_cast<float*>(layout.partial + int64_t{Rows(p.rows)} * layout.span_count *
                                                             QueryBlocks(p) * kBlockQueries);
  return layout;
}

template <class Kv, int kDim>
void Launch(const KernelParams& params, cudaStream_t stream) {
  const int rows = Rows(params.p.rows);
  const int tiles = (params.layout.raw_stride + kTileKeys - 1) / kTileKeys;
  const int candidates = params.p.rows.tables.chunk + params.p.rows.window;
  LaunchChained(DenominatorKernel<Kv, kDim>, dim3(rows, params.layout.span_count), kScoreThreads,
                stream, params);
  LaunchChained(WeightKernel<Kv, kDim>, dim3(rows, tiles), kScoreThreads, stream, params);
  LaunchChained(PoolKernel, dim3(rows, (candidates + kScoreThreads - 1) / kScoreThreads),
                kScoreThreads, stream, params);
}

}  // namespace

size_t AttentionScoreScratchBytes(const AttentionScoreParams& params) {
  const Layout layout = MakeLayout(params);
  return sizeof(float2) * Rows(params.rows) * layout.span_count * QueryBlocks(params) *
             kBlockQueries +
         sizeof(float) * Rows(params.rows) * layout.raw_stride;
}

void RunScoreAttention(const AttentionScoreParams& params, cudaStream_t stream) {
  if (params.rows.batch.size == 0) return;
  const KernelParams kernel_params{params, MakeLayout(params)};
  DispatchKv(params.rows.kv, "attention scores", [&](auto kv, auto dim) {
    Launch<typename decltype(kv)::Type, dim.value>(kernel_params, stream);
  });
}

}  // namespace tangram::ops::cuda
