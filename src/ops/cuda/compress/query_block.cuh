#pragma once

#include "ops/cuda/compress/score_tile.cuh"

// Queries of a KV head against tiles of its keys on the tensor cores: 16 queries by 8 keys.

namespace tangram::ops::cuda {

constexpr int kBlockQueries = 128;  // of a pass over a tile: 16 a warp

// The query rows of a KV head: query w, head h of the group, at w * g + h.
struct QueryRows {
  const __nv_bfloat16* first;
  int64_t stride;  // from query to query
  int group;       // g
  int count;       // of rows
  int first_keys;  // that the first query sees; each further one sees one more
};

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

  __device__ void Load(const QueryRows& rows, int first_row) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int block_rows = min(rows.count - first_row, kBlockQueries);
    query_tiles = (block_rows + 15) / 16;
    key_groups = kScoreWarps / query_tiles;
    query_tile = warp % query_tiles;
    key_group = warp / query_tiles;
    active = key_group < key_groups;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int r = query_tile * 16 + half * 8 + lane / 4;
      const int query = (first_row + r) / rows.group;
      limit[half] = r < block_rows ? rows.first_keys + query : 0;
      const __nv_bfloat16* q =
          rows.first + query * rows.stride + (first_row + r) % rows.group * kDim;
#pragma unroll
      for (int step = 0; step < kSteps; ++step) {
#pragma unroll
        for (int k = 0; k < 2; ++k) {
          a[step][2 * k + half] =
              r < block_rows
                  ? *reinterpret_cast<const uint32_t*>(q + step * 16 + k * 8 + lane % 4 * 2)
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
__device__ inline float2 MergeSums(float2 a, float2 b) {
  const float maximum = fmaxf(a.x, b.x);
  if (maximum == -INFINITY) return a;
  return {maximum, a.y * exp2f(a.x - maximum) + b.y * exp2f(b.x - maximum)};
}

template <class Kv, int kDim>
struct DenominatorShared {
  alignas(16) __nv_bfloat16 tile[KeyTile<Kv, kDim>::kElements];
  float2 sums[kScoreWarps][16];
};

// The denominators of the softmax of each of a block's queries over the keys [begin, end): thread i
// gets that of query i, of the first `query_tiles` * 16. Logits are in base 2.
template <class Kv, int kDim>
__device__ float2 Denominators(const QueryBlock<Kv, kDim>& queries, const CompressRow& row,
                               const void* pool, int begin, int end, float scale_log2,
                               DenominatorShared<Kv, kDim>& shared) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  float2 sums[2] = {{-INFINITY, 0}, {-INFINITY, 0}};
  ForEachTile<Kv, kDim>(row, pool, begin, end, shared.tile, [&](int first) {
    if (!queries.active) return;
    for (int n = queries.key_group; n < kTileKeys / 8; n += queries.key_groups) {
      float c[4];
      queries.Logits(shared.tile, n, c);
      const int key = first + n * 8 + lane % 4 * 2;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int stop = min(end, queries.limit[half]);
        const float x = key < stop ? c[2 * half] * scale_log2 : -INFINITY;
        const float y = key + 1 < stop ? c[2 * half + 1] * scale_log2 : -INFINITY;
        const float maximum = fmaxf(sums[half].x, fmaxf(x, y));
        if (maximum == -INFINITY) continue;
        sums[half].y =
            sums[half].y * exp2f(sums[half].x - maximum) + exp2f(x - maximum) + exp2f(y - maximum);
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
    if (lane % 4 == 0) shared.sums[warp][half * 8 + lane / 4] = sums[half];
  }
  __syncthreads();
  float2 total = {-INFINITY, 0};
  if (threadIdx.x < queries.query_tiles * 16) {
    for (int group = 0; group < queries.key_groups; ++group) {
      total = MergeSums(
          total, shared.sums[group * queries.query_tiles + threadIdx.x / 16][threadIdx.x % 16]);
    }
  }
  return total;
}

}  // namespace tangram::ops::cuda
