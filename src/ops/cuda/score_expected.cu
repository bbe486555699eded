#include <algorithm>
#include <type_traits>

#include "ops/cuda/check.h"
#include "ops/cuda/kv_dispatch.cuh"
#include "ops/cuda/kv_load.cuh"
#include "ops/cuda/launch.cuh"
#include "ops/cuda/score_expected.h"
#include "ops/cuda/score_tile.cuh"

// Three launches after those of the queries' statistics: the logits of each key, the denominators
// of their softmax, the scores.

namespace tangram::ops::cuda {
namespace {

using namespace expected;

constexpr int kLogitThreads = 128, kLogitWarps = kLogitThreads / 32;
constexpr int kBlockHeads = 2;  // query heads whose matrices a block has
constexpr int kKeyTiles = 2;    // of 16 keys that a warp takes at a time
constexpr int kWarpKeys = 16 * kKeyTiles;

__device__ int Group(const ExpectedAttentionParams& p) {
  return p.queries.num_q_heads / p.rows.num_kv_heads;
}

// Keys in f16 as the left operand of mma.m16n8k16, straight from the pages. The order of dimensions
// in a product is free: a lane has, of each 32, the eight from 8 * (lane % 4) on, 16 bytes of bf16.
template <class Kv, int kDim>
struct KeyOperand {
  static constexpr int kSteps = kDim / 16, kChunks = kDim / 32;
  uint32_t tiles[kKeyTiles][kSteps][4];

  // Keys from `end` on repeat the last.
  __device__ void Load(const CompressRow& row, const void* pool, int first, int end) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int tile = 0; tile < kKeyTiles; ++tile) {
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const int index = min(first + tile * 16 + r * 8 + lane / 4, end - 1);
        const Kv* key = static_cast<const Kv*>(pool) +
                        (row.VirtualPage(index) * 2 * kPageTokens + index % kPageTokens) * kDim +
                        lane % 4 * 8;
#pragma unroll
        for (int chunk = 0; chunk < kChunks; ++chunk) {
          uint32_t pairs[4];
          LoadF16(key + chunk * 32, pairs);
#pragma unroll
          for (int i = 0; i < 4; ++i) tiles[tile][2 * chunk + i / 2][i % 2 * 2 + r] = pairs[i];
        }
      }
    }
  }
  // Dimensions 2i and 2i + 1 of the lane, of its key `r` of a tile.
  __device__ float2 Pair(int tile, int r, int i) const {
    return __half22float2(*reinterpret_cast<const __half2*>(&tiles[tile][i / 2][i % 2 * 2 + r]));
  }

 private:
  static __device__ void LoadF16(const __nv_bfloat16* from, uint32_t (&pairs)[4]) {
    float x[8];
    Load8(from, x);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const __half2 pair = __floats2half2_rn(x[2 * i], x[2 * i + 1]);
      pairs[i] = *reinterpret_cast<const uint32_t*>(&pair);
    }
  }
  static __device__ void LoadF16(const __nv_fp8_e4m3* from, uint32_t (&pairs)[4]) {
    const uint2 raw = *reinterpret_cast<const uint2*>(from);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const __half2_raw pair = __nv_cvt_fp8x2_to_halfraw2(
          static_cast<__nv_fp8x2_storage_t>((i < 2 ? raw.x : raw.y) >> i % 2 * 16), __NV_E4M3);
      pairs[i] = pair.x | uint32_t{pair.y} << 16;
    }
  }
};

// k'Sigma k is taken from the chunks of 32 dimensions on and above the diagonal, those above
// doubled. In shared memory the 16 bytes that a lane needs for 8 columns and 32 dimensions lie as
// it reads them: [column tile][chunk up to its own][lane].
template <int kDim>
struct Matrix {
  static constexpr int kColumnTiles = kDim / 8, kChunks = kDim / 32;
  static constexpr int kVectors = 2 * kChunks * (kChunks + 1) * 32;

  static __device__ constexpr int Place(int tile, int chunk) {
    return (2 * (tile / 4) * (tile / 4 + 1) + tile % 4 * (tile / 4 + 1) + chunk) * 32;
  }
  // Fetches it from rows in device memory; all threads of the block.
  static __device__ void Fetch(const __half* sigma, uint4* matrix) {
    for (int i = threadIdx.x; i < kColumnTiles * kChunks * 32; i += kLogitThreads) {
      const int lane = i % 32, chunk = i / 32 % kChunks, tile = i / 32 / kChunks;
      if (chunk > tile / 4) continue;
      // Column lane / 4 of a tile is dimension 2 * tile + lane / 4 % 2 of what lane % 4 == lane / 8
      // has of a key.
      const int dim = tile / 4 * 32 + lane / 8 * 8 + tile % 4 * 2 + lane / 4 % 2;
      uint4 vector =
          *reinterpret_cast<const uint4*>(sigma + dim * kDim + chunk * 32 + lane % 4 * 8);
      if (chunk < tile / 4) {
        for (uint32_t* pair : {&vector.x, &vector.y, &vector.z, &vector.w}) {
          const __half2 once = *reinterpret_cast<const __half2*>(pair);
          *reinterpret_cast<__half2*>(pair) = __hadd2(once, once);
        }
      }
      matrix[Place(tile, chunk) + lane] = vector;
    }
  }
};

// sums += k'(Sigma k + mu) of a warp's keys, of some query heads: the lane's part of keys lane / 4
// and 8 further. Fully unrolled: the keys' elements that meet a product's are in registers.
template <int kHeads, class Kv, int kDim>
__device__ __forceinline__ void AddLogits(const KeyOperand<Kv, kDim>& keys, const uint4* matrices,
                                          const float (*mu)[kDim],
                                          float (&sums)[kHeads][kKeyTiles][2]) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int column = 0; column < kDim / 8; ++column) {
    float c[kHeads][kKeyTiles][4];
#pragma unroll
    for (int head = 0; head < kHeads; ++head) {
      const float2 start = *reinterpret_cast<const float2*>(
          &mu[head][column / 4 * 32 + lane % 4 * 8 + column % 4 * 2]);
#pragma unroll
      for (int tile = 0; tile < kKeyTiles; ++tile) {
        c[head][tile][0] = c[head][tile][2] = start.x;
        c[head][tile][1] = c[head][tile][3] = start.y;
      }
    }
#pragma unroll
    for (int chunk = 0; chunk <= column / 4; ++chunk) {
      uint4 b[kHeads];
#pragma unroll
      for (int head = 0; head < kHeads; ++head) {
        b[head] =
            matrices[head * Matrix<kDim>::kVectors + Matrix<kDim>::Place(column, chunk) + lane];
      }
#pragma unroll
      for (int head = 0; head < kHeads; ++head) {
#pragma unroll
        for (int tile = 0; tile < kKeyTiles; ++tile) {
          ptx::MmaF16(c[head][tile], keys.tiles[tile][2 * chunk], b[head].x, b[head].y);
        }
      }
#pragma unroll
      for (int head = 0; head < kHeads; ++head) {
#pragma unroll
        for (int tile = 0; tile < kKeyTiles; ++tile) {
          ptx::MmaF16(c[head][tile], keys.tiles[tile][2 * chunk + 1], b[head].z, b[head].w);
        }
      }
    }
#pragma unroll
    for (int tile = 0; tile < kKeyTiles; ++tile) {
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const float2 key = keys.Pair(tile, r, column);
#pragma unroll
        for (int head = 0; head < kHeads; ++head) {
          float& sum = sums[head][tile][r];
          sum = fmaf(c[head][tile][2 * r], key.x, fmaf(c[head][tile][2 * r + 1], key.y, sum));
        }
      }
    }
  }
}

// The logits of `kHeads` query heads of a row, from `first_head` of its group on: block y of z's.
template <int kHeads, class Kv, int kDim>
__device__ void RowLogits(const KernelParams& params, const CompressRow& row, int block_row,
                          int first_head, int64_t index, const uint4* matrices,
                          const float (*mu)[kDim]) {
  const int lane = threadIdx.x % 32, warp = blockIdx.y * kLogitWarps + threadIdx.x / 32;
  for (int first = row.first + warp * kWarpKeys; first < row.old_length;
       first += gridDim.y * kLogitWarps * kWarpKeys) {
    KeyOperand<Kv, kDim> keys;
    keys.Load(row, params.p.rows.kv.pool, first, row.old_length);
    float sums[kHeads][kKeyTiles][2] = {};
    AddLogits<kHeads>(keys, matrices, mu, sums);
#pragma unroll
    for (int head = 0; head < kHeads; ++head) {
      const float unit = params.layout.unit[index + head];
      float* logits =
          params.layout.logits +
          (int64_t{block_row} * Group(params.p) + first_head + head) * params.layout.stride;
#pragma unroll
      for (int tile = 0; tile < kKeyTiles; ++tile) {
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          float sum = sums[head][tile][r];
          sum += __shfl_xor_sync(~0u, sum, 1);
          sum += __shfl_xor_sync(~0u, sum, 2);
          const int key = first + tile * 16 + r * 8 + lane / 4;
          if (lane % 4 == tile && key < row.old_length) logits[key - row.first] = unit * sum;
        }
      }
    }
  }
}

// Block (row and two query heads of its group, span).
template <class Kv, int kDim>
__global__ void __launch_bounds__(kLogitThreads, 3)
    LogitsKernel(const __grid_constant__ KernelParams params) {
  extern __shared__ __align__(16) uint8_t raw_shared[];
  uint4* matrices = reinterpret_cast<uint4*>(raw_shared);
  __shared__ float mu[kBlockHeads][kDim];
  WaitForPriorKernels();
  LaunchDependents();
  const ExpectedAttentionParams& p = params.p;
  const int g = Group(p), pairs = (g + kBlockHeads - 1) / kBlockHeads;
  const int block_row = blockIdx.x / pairs, first_head = blockIdx.x % pairs * kBlockHeads;
  const int heads = min(kBlockHeads, g - first_head);
  const CompressRow row = LoadCompressRow(p.rows, block_row);
  if (row.keep >= row.candidates) return;
  const int64_t index = block_row / p.rows.num_kv_heads * int64_t{p.queries.num_q_heads} +
                        block_row % p.rows.num_kv_heads * g + first_head;
  for (int head = 0; head < heads; ++head) {
    Matrix<kDim>::Fetch(params.layout.sigma + (index + head) * kDim * kDim,
                        matrices + head * Matrix<kDim>::kVectors);
  }
  for (int i = threadIdx.x; i < heads * kDim; i += kLogitThreads) {
    mu[i / kDim][i % kDim] = params.layout.mu[index * kDim + i];
  }
  __syncthreads();
  if (heads == kBlockHeads) {
    RowLogits<kBlockHeads, Kv, kDim>(params, row, block_row, first_head, index, matrices, mu);
  } else {
    RowLogits<1, Kv, kDim>(params, row, block_row, first_head, index, matrices, mu);
  }
}

// Block (row, query head of the group): the base-2 logarithm of the sum of exp2.
__global__ void __launch_bounds__(kScoreThreads)
    LogSumKernel(const __grid_constant__ KernelParams params) {
  __shared__ float maxima[kScoreWarps];
  WaitForPriorKernels();
  LaunchDependents();
  const CompressRow row = LoadCompressRow(params.p.rows, blockIdx.x);
  if (row.keep >= row.candidates) return;
  const int64_t index = int64_t{blockIdx.x} * Group(params.p) + blockIdx.y;
  const float* logits = params.layout.logits + index * params.layout.stride;
  const int count = row.old_length - row.first;
  float maximum = -INFINITY, sum = 0;
  for (int i = threadIdx.x; i < count; i += kScoreThreads) maximum = fmaxf(maximum, logits[i]);
#pragma unroll
  for (int step = 16; step > 0; step /= 2) {
    maximum = fmaxf(maximum, __shfl_xor_sync(~0u, maximum, step));
  }
  if (threadIdx.x % 32 == 0) maxima[threadIdx.x / 32] = maximum;
  __syncthreads();
  for (float other : maxima) maximum = fmaxf(maximum, other);
  for (int i = threadIdx.x; i < count; i += kScoreThreads) sum += exp2f(logits[i] - maximum);
  sum = BlockSum(sum);
  if (threadIdx.x == 0) params.layout.log_sums[index] = maximum + log2f(sum);
}

// Block (row, 256 candidates): d/8 lanes take a value's norm, then a thread has a candidate.
template <class Kv, int kDim>
__global__ void __launch_bounds__(kScoreThreads)
    ScoreKernel(const __grid_constant__ KernelParams params) {
  constexpr int kLanes = kDim / 8, kGroups = kScoreThreads / kLanes;
  __shared__ float norms[kScoreThreads];
  WaitForPriorKernels();
  LaunchDependents();
  const ExpectedAttentionParams& p = params.p;
  const CompressRow row = LoadCompressRow(p.rows, blockIdx.x);
  const int begin = blockIdx.y * kScoreThreads, last = row.candidates - 1;
  if (row.keep >= row.candidates || begin > last) return;
  const int lane = threadIdx.x % kLanes, group = threadIdx.x / kLanes;
#pragma unroll 8
  for (int i = group; i < kScoreThreads; i += kGroups) {
    const int index = row.first + min(begin + i, last);
    float value[8], squares = 0;
    Load8(static_cast<const Kv*>(p.rows.kv.pool) +
              ((row.VirtualPage(index) * 2 + 1) * kPageTokens + index % kPageTokens) * kDim +
              lane * 8,
          value);
#pragma unroll
    for (int k = 0; k < 8; ++k) squares += value[k] * value[k];
#pragma unroll
    for (int step = kLanes / 2; step > 0; step /= 2) squares += __shfl_xor_sync(~0u, squares, step);
    if (lane == 0) norms[i] = sqrtf(squares);
  }
  __syncthreads();
  const int candidate = begin + threadIdx.x, g = Group(p);
  if (candidate > last) return;
  float score = 0;
  for (int h = 0; h < g; ++h) {
    const int64_t at = int64_t{blockIdx.x} * g + h;
    score += exp2f(params.layout.logits[at * params.layout.stride + candidate] -
                   params.layout.log_sums[at]);
  }
  score /= g;
  if (p.use_value_norm) score = (score + p.epsilon) * norms[threadIdx.x];
  const int index = row.first + candidate;
  p.rows.scores[row.VirtualPage(index) * kPageTokens + index % kPageTokens] = score;
}

int Rows(const CompressParams& rows) {
  return rows.batch.size * rows.num_layers * rows.num_kv_heads;
}

// Lays the arrays out from `base` on; their size.
size_t MakeLayout(const ExpectedAttentionParams& p, void* base, Layout* layout) {
  const int dim = p.rows.kv.head_dim, group = p.queries.num_q_heads / p.rows.num_kv_heads;
  const size_t heads = size_t{1} * p.rows.batch.size * p.rows.num_layers * p.queries.num_q_heads;
  const size_t rows = Rows(p.rows);
  char* at = static_cast<char*>(base);
  auto take = [&](auto*& array, size_t count) {
    array = reinterpret_cast<std::remove_reference_t<decltype(array)>>(at);
    at += (count * sizeof(*array) + 255) / 256 * 256;
  };
  layout->stride = p.rows.tables.chunk + p.rows.window;
  take(layout->sigma, heads * dim * dim);
  take(layout->mu, heads * dim);
  take(layout->unit, heads);
  take(layout->logits, rows * group * layout->stride);
  take(layout->log_sums, rows * group);
  return at - static_cast<char*>(base);
}

template <class Kv, int kDim>
void Launch(const KernelParams& params, cudaStream_t stream) {
  const CompressParams& rows = params.p.rows;
  const int count = Rows(rows), group = params.p.queries.num_q_heads / rows.num_kv_heads;
  constexpr size_t kMatrixBytes = sizeof(uint4) * kBlockHeads * Matrix<kDim>::kVectors;
  [[maybe_unused]] static const bool raised = [] {
    TANGRAM_CUDA_CHECK(cudaFuncSetAttribute(LogitsKernel<Kv, kDim>,
                                            cudaFuncAttributeMaxDynamicSharedMemorySize,
                                            static_cast<int>(kMatrixBytes)));
    return true;
  }();
  RunQueryStatistics(params, stream);
  const int units = (params.layout.stride + kWarpKeys - 1) / kWarpKeys;
  const int spans = std::max(1, units / (8 * kLogitWarps));  // some eight rounds a warp
  LaunchChainedShared(LogitsKernel<Kv, kDim>,
                      dim3(count * ((group + kBlockHeads - 1) / kBlockHeads), spans), kLogitThreads,
                      kMatrixBytes, stream, params);
  LaunchChained(LogSumKernel, dim3(count, group), kScoreThreads, stream, params);
  LaunchChained(ScoreKernel<Kv, kDim>,
                dim3(count, (params.layout.stride + kScoreThreads - 1) / kScoreThreads),
                kScoreThreads, stream, params);
}

}  // namespace

size_t ExpectedAttentionScratchBytes(const ExpectedAttentionParams& params) {
  Layout layout;
  return MakeLayout(params, nullptr, &layout);
}

void RunScoreExpectedAttention(const ExpectedAttentionParams& params, cudaStream_t stream) {
  if (params.rows.batch.size == 0) return;
  KernelParams kernel_params{params, {}};
  MakeLayout(params, params.scratch, &kernel_params.layout);
  DispatchKv<64, 128>(params.rows.kv, "expected attention", [&](auto kv, auto dim) {
    Launch<typename decltype(kv)::Type, dim.value>(kernel_params, stream);
  });
}

}  // namespace tangram::ops::cuda
