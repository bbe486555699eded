#include <algorithm>

#include "ops/cuda/check.h"
#include "ops/cuda/device.h"
#include "ops/cuda/launch.cuh"
#include "ops/cuda/score_queries.h"
#include "ops/cuda/score_tile.cuh"

// Three launches: the denominators of the softmax, from spans of each row; the keys' weights summed
// over the queries; pooling. The tensor cores take 16 queries by 8 keys; all the queries of a KV
// head read a tile of keys together, so that a key is read twice in all.

namespace tangram::ops::cuda {
namespace {

constexpr float kLog2E = 1.44269504088896f;
constexpr int kSpanKeys =
    1024;  // of a partial denominator: fixed, so that sums do not depend on the grid
constexpr int kBlockQueries = 128;  // of a pass over a tile: 16 a warp

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

// Query rows of a KV head: query w of the chunk's last, head h of the group, at w * g + h.
__host__ __device__ inline int Group(const AttentionScoreParams& p) {
  return p.queries.num_q_heads / p.rows.num_kv_heads;
}
__host__ __device__ inline int QueryRows(const AttentionScoreParams& p) {
  return p.queries.count * Group(p);
}
__host__ __device__ inline int QueryBlocks(const AttentionScoreParams& p) {
  return (QueryRows(p) + kBlockQueries - 1) / kBlockQueries;
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

// A block of queries against tiles of keys: each warp has 16 queries and some of the tile's eight
// groups of 8 keys.
template <class Kv, int kDim>
struct QueryBlock {
  static constexpr int kSteps = kDim / 16;
  using Tile = KeyTile<Kv, kDim>;
  uint32_t a[kSteps][4];
  int limit[2];  // the first key that the thread's two queries do not see
  int query_tiles, key_groups, query_tile, key_group;
  bool active;

  // `first_row`: of the query rows.
  __device__ void Load(const AttentionScoreParams& p, const CompressRow& row, int first_row) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int rows = min(QueryRows(p) - first_row, kBlockQueries);
    query_tiles = (rows + 15) / 16;
    key_groups = kScoreWarps / query_tiles;
    query_tile = warp % query_tiles;
    key_group = warp / query_tiles;
    active = key_group < key_groups;
    const int g = Group(p);
    const int head = blockIdx.x % p.rows.num_kv_heads;
    const int layer = p.rows.first_layer + blockIdx.x / p.rows.num_kv_heads % p.rows.num_layers;
    const int slot = p.rows.batch.slot[blockIdx.x / (p.rows.num_kv_heads * p.rows.num_layers)];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int r = query_tile * 16 + half * 8 + lane / 4;
      const int query = (first_row + r) / g;
      limit[half] = r < rows ? row.old_length - p.queries.count + query + 1 : 0;
      const int64_t token =
          (int64_t{slot} * p.queries.num_layers + layer) * p.queries.count + query;
      const __nv_bfloat16* q =
          p.queries.data + (token * p.queries.num_q_heads + head * g + (first_row + r) % g) * kDim;
#pragma unroll
      for (int step = 0; step < kSteps; ++step) {
#pragma unroll
        for (int k = 0; k < 2; ++k) {
          a[step][2 * k + half] =
              r < rows ? *reinterpret_cast<const uint32_t*>(q + step * 16 + k * 8 + lane % 4 * 2)
                       : 0;
        }
      }
    }
  }

  // q.k of the warp's 16 queries and 8 keys of group n. Lane l: queries l/4 and 8 further, keys
  // 2 * (l % 4) and the next.
  __device__ void Logits(const __nv_bfloat16* tile, int n, float (&c)[4]) const {
    c[0] = c[1] = c[2] = c[3] = 0;
#pragma unroll
    for (int step = 0; step < kSteps; step += 2) {
      uint32_t b[4];
      LoadRightOperand(b, tile + n * 8 * Tile::kStride + step * 16, Tile::kStride);
      ptx::MmaBf16(c, a[step], b[0], b[1]);
      ptx::MmaBf16(c, a[step + 1], b[2], b[3]);
    }
  }
};

// Walks the tiles of keys [begin, end), one in use and the next on its way.
template <class Kv, int kDim, class Use>
__device__ void ForEachTile(const CompressRow& row, const void* pool, int begin, int end,
                            __nv_bfloat16* tile, Use use) {
  KeyTile<Kv, kDim> next;
  next.Load(row, pool, begin, end);
  for (int first = begin; first < end; first += kTileKeys) {
    __syncthreads();  // the tile before is done with
    next.Store(tile);
    __syncthreads();
    if (first + kTileKeys < end) next.Load(row, pool, first + kTileKeys, end);
    use(first);
  }
}

// Adds the sums b to a: (maximum, sum of exp2 against it).
__device__ float2 MergeSums(float2 a, float2 b) {
  const float maximum = fmaxf(a.x, b.x);
  if (maximum == -INFINITY) return a;
  return {maximum, a.y * exp2f(a.x - maximum) + b.y * exp2f(b.x - maximum)};
}

// Block (row, span): the denominators of each query over 1024 keys.
template <class Kv, int kDim>
__global__ void __launch_bounds__(kScoreThreads)
    DenominatorKernel(const __grid_constant__ KernelParams params) {
  __shared__ alignas(16) __nv_bfloat16 tile[KeyTile<Kv, kDim>::kElements];
  __shared__ float2 shared_sums[kScoreWarps][16];
  WaitForPriorKernels();
  LaunchDependents();
  const AttentionScoreParams& p = params.p;
  const CompressRow row = LoadCompressRow(p.rows, blockIdx.x);
  const int begin = blockIdx.y * kSpanKeys, end = min(row.old_length, begin + kSpanKeys);
  if (begin >= end || Skips(p, row)) return;
  const float scale_log2 = p.scale * kLog2E;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  for (int block = 0; block < QueryBlocks(p); ++block) {
    QueryBlock<Kv, kDim> queries;
    queries.Load(p, row, block * kBlockQueries);
    float2 sums[2] = {{-INFINITY, 0}, {-INFINITY, 0}};
    ForEachTile<Kv, kDim>(row, p.rows.kv.pool, begin, end, tile, [&](int first) {
      if (!queries.active) return;
      for (int n = queries.key_group; n < kTileKeys / 8; n += queries.key_groups) {
        float c[4];
        queries.Logits(tile, n, c);
        const int key = first + n * 8 + lane % 4 * 2;
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int stop = min(end, queries.limit[half]);
          const float x = key < stop ? c[2 * half] * scale_log2 : -INFINITY;
          const float y = key + 1 < stop ? c[2 * half + 1] * scale_log2 : -INFINITY;
          const float maximum = fmaxf(sums[half].x, fmaxf(x, y));
          if (maximum == -INFINITY) continue;
          sums[half].y = sums[half].y * exp2f(sums[half].x - maximum) + exp2f(x - maximum) +
                         exp2f(y - maximum);
          sums[half].x = maximum;
        }
      }
    });
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (int step = 1; step < 4; step *= 2) {
        const float2 other = {__shfl_xor_sync(~0u, sums[half].x, step),
                              __shfl_xor_sync(~0u, sums[half].y, step)};
        // In one order for both lanes.
        sums[half] = lane & step ? MergeSums(other, sums[half]) : MergeSums(sums[half], other);
      }
      if (lane % 4 == 0) shared_sums[warp][half * 8 + lane / 4] = sums[half];
    }
    __syncthreads();
    if (threadIdx.x < queries.query_tiles * 16) {
      float2 total = {-INFINITY, 0};
      for (int group = 0; group < queries.key_groups; ++group) {
        total = MergeSums(
            total, shared_sums[group * queries.query_tiles + threadIdx.x / 16][threadIdx.x % 16]);
      }
      const int64_t spans = int64_t{blockIdx.x} * params.layout.span_count + blockIdx.y;
      params.layout.partial[(spans * QueryBlocks(p) + block) * kBlockQueries + threadIdx.x] = total;
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
  float total = 0;  // of one key, of threads < 64
  for (int block = 0; block < QueryBlocks(p); ++block) {
    QueryBlock<Kv, kDim> queries;
    queries.Load(p, row, block * kBlockQueries);
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
        QueryRows(p);
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

template <class Kv>
void LaunchDim(const KernelParams& params, cudaStream_t stream) {
  switch (params.p.rows.kv.head_dim) {
    case 64:
      return Launch<Kv, 64>(params, stream);
    case 128:
      return Launch<Kv, 128>(params, stream);
    case 256:
      return Launch<Kv, 256>(params, stream);
    default:
      std::fprintf(stderr, "attention scores: head_dim %d\n", params.p.rows.kv.head_dim);
      std::abort();
  }
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
  if (params.rows.kv.dtype == DType::kF8E4M3) {
    LaunchDim<__nv_fp8_e4m3>(kernel_params, stream);
  } else {
    LaunchDim<__nv_bfloat16>(kernel_params, stream);
  }
}

}  // namespace tangram::ops::cuda
