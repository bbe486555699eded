#include <algorithm>
#include <type_traits>

#include "ops/cuda/check.h"
#include "ops/cuda/compress/expected_logits.cuh"
#include "ops/cuda/compress/score_expected.h"
#include "ops/cuda/compress/score_tile.cuh"
#include "ops/cuda/kv_dispatch.cuh"
#include "ops/cuda/kv_load.cuh"
#include "ops/cuda/launch.cuh"

// Three launches after those of the queries' statistics: the logits of each key, the denominators
// of their softmax, the scores.

namespace tangram::ops::cuda {
namespace {

using namespace expected;

__device__ int Group(const ExpectedAttentionParams& p) {
  return p.queries.num_q_heads / p.rows.num_kv_heads;
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
  DispatchKv(params.rows.kv, "expected attention", [&](auto kv, auto dim) {
    Launch<typename decltype(kv)::Type, dim.value>(kernel_params, stream);
  });
}

}  // namespace tangram::ops::cuda
