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
constexpr int kKeyTiles = 4;    // of 16 keys that a warp takes at a time
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

// Block (row and query heads of its group, span): k'(Sigma k + mu) of the span's keys. A warp
// multiplies 64 keys by matrices in shared memory, where the 16 bytes that a lane needs for 8
// columns and 32 dimensions lie as it reads them.
template <class Kv, int kDim>
__global__ void __launch_bounds__(kLogitThreads, 2)
    LogitsKernel(const __grid_constant__ KernelParams params) {
  constexpr int kColumnTiles = kDim / 8, kChunks = kDim / 32;
  constexpr int kVectors = kDim * kDim / 8;  // of a matrix
  extern __shared__ __align__(16) uint8_t raw_shared[];
  uint4* matrices = reinterpret_cast<uint4*>(raw_shared);  // [heads][kColumnTiles][kChunks][32]
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
  const uint4* sigma = reinterpret_cast<const uint4*>(params.layout.sigma + index * kDim * kDim);
  for (int i = threadIdx.x; i < heads * kVectors; i += kLogitThreads) {
    const int lane = i % 32, chunk = i / 32 % kChunks, tile = i / 32 / kChunks % kColumnTiles;
    // Column lane / 4 of a tile is dimension 2 * tile + lane / 4 % 2 of what lane % 4 == lane / 8
    // has of a key.
    const int dim = tile / 4 * 32 + lane / 8 * 8 + tile % 4 * 2 + lane / 4 % 2;
    matrices[i] = sigma[i / kVectors * kVectors + (dim * kDim + chunk * 32) / 8 + lane % 4];
  }
  for (int i = threadIdx.x; i < heads * kDim; i += kLogitThreads) {
    mu[i / kDim][i % kDim] = params.layout.mu[index * kDim + i];
  }
  __syncthreads();
  const int lane = threadIdx.x % 32, warp = blockIdx.y * kLogitWarps + threadIdx.x / 32;
  for (int first = row.first + warp * kWarpKeys; first < row.old_length;
       first += gridDim.y * kLogitWarps * kWarpKeys) {
    KeyOperand<Kv, kDim> keys;
    keys.Load(row, p.rows.kv.pool, first, row.old_length);
    for (int head = 0; head < heads; ++head) {
      float sums[kKeyTiles][2] = {};  // of keys lane / 4 and 8 further
      // Fully unrolled: the keys' elements that meet a product's are in registers.
#pragma unroll
      for (int column = 0; column < kColumnTiles; ++column) {
        const float2 start = *reinterpret_cast<const float2*>(
            &mu[head][column / 4 * 32 + lane % 4 * 8 + column % 4 * 2]);
        float c[kKeyTiles][4];
#pragma unroll
        for (int tile = 0; tile < kKeyTiles; ++tile) {
          c[tile][0] = c[tile][2] = start.x, c[tile][1] = c[tile][3] = start.y;
        }
#pragma unroll
        for (int chunk = 0; chunk < kChunks; ++chunk) {
          const uint4 b = matrices[head * kVectors + (column * kChunks + chunk) * 32 + lane];
#pragma unroll
          for (int tile = 0; tile < kKeyTiles; ++tile) {
            ptx::MmaF16(c[tile], keys.tiles[tile][2 * chunk], b.x, b.y);
          }
#pragma unroll
          for (int tile = 0; tile < kKeyTiles; ++tile) {
            ptx::MmaF16(c[tile], keys.tiles[tile][2 * chunk + 1], b.z, b.w);
          }
        }
#pragma unroll
        for (int tile = 0; tile < kKeyTiles; ++tile) {
#pragma unroll
          for (int r = 0; r < 2; ++r) {
            const float2 key = keys.Pair(tile, r, column);
            sums[tile][r] += c[tile][2 * r] * key.x + c[tile][2 * r + 1] * key.y;
          }
        }
      }
      const float unit = params.layout.unit[index + head];
      float* logits = params.layout.logits +
                      (int64_t{block_row} * g + first_head + head) * params.layout.stride;
#pragma unroll
      for (int tile = 0; tile < kKeyTiles; ++tile) {
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          float sum = sums[tile][r];
          sum += __shfl_xor_sync(~0u, sum, 1);
          sum += __shfl_xor_sync(~0u, sum, 2);
          const int key = first + tile * 16 + r * 8 + lane / 4;
          if (lane % 4 == tile && key < row.old_length) logits[key - row.first] = unit * sum;
        }
      }
    }
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

// Block (row, 128 candidates): d/8 lanes a candidate.
constexpr int kBlockCandidates = 128;

template <class Kv, int kDim>
__global__ void __launch_bounds__(kScoreThreads)
    ScoreKernel(const __grid_constant__ KernelParams params) {
  constexpr int kLanes = kDim / 8, kGroups = kScoreThreads / kLanes;
  WaitForPriorKernels();
  LaunchDependents();
  const ExpectedAttentionParams& p = params.p;
  const CompressRow row = LoadCompressRow(p.rows, blockIdx.x);
  if (row.keep >= row.candidates) return;
  const int g = Group(p), lane = threadIdx.x % kLanes;
  const int begin = blockIdx.y * kBlockCandidates + threadIdx.x / kLanes;
#pragma unroll
  for (int i = 0; i < kBlockCandidates; i += kGroups) {
    const int candidate = begin + i;
    const int index = row.first + min(candidate, row.candidates - 1);
    const int64_t page = row.VirtualPage(index);
    float value[8], squares = 0;
    Load8(static_cast<const Kv*>(p.rows.kv.pool) +
              ((page * 2 + 1) * kPageTokens + index % kPageTokens) * kDim + lane * 8,
          value);
#pragma unroll
    for (int k = 0; k < 8; ++k) squares += value[k] * value[k];
#pragma unroll
    for (int step = kLanes / 2; step > 0; step /= 2) squares += __shfl_xor_sync(~0u, squares, step);
    if (lane != 0 || candidate >= row.candidates) continue;
    float score = 0;
    for (int h = 0; h < g; ++h) {
      const int64_t at = int64_t{blockIdx.x} * g + h;
      score += exp2f(params.layout.logits[at * params.layout.stride + candidate] -
                     params.layout.log_sums[at]);
    }
    score /= g;
    if (p.use_value_norm) score = (score + p.epsilon) * sqrtf(squares);
    p.rows.scores[page * kPageTokens + index % kPageTokens] = score;
  }
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
  constexpr size_t kMatrixBytes = sizeof(__half) * kBlockHeads * kDim * kDim;
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
                dim3(count, (params.layout.stride + kBlockCandidates - 1) / kBlockCandidates),
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
