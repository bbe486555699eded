#include <type_traits>

#include "ops/cuda/check.h"
#include "ops/cuda/device.h"
#include "ops/cuda/kv_load.cuh"
#include "ops/cuda/launch.cuh"
#include "ops/cuda/score_expected.h"
#include "ops/cuda/score_tile.cuh"

// Three launches after those of the queries' statistics: the logits of each key, the denominators
// of their softmax, the scores.

namespace tangram::ops::cuda {
namespace {

using namespace expected;

constexpr int kSpanKeys = 1024;  // that a block takes with one query head's matrix

__device__ int Group(const ExpectedAttentionParams& p) {
  return p.queries.num_q_heads / p.rows.num_kv_heads;
}

template <class Kv, int kDim>
struct LogitsShared {
  static constexpr int kStride = kDim + 8;
  alignas(16) __nv_bfloat16 sigma[2][kDim * kStride];
  alignas(16) __nv_bfloat16 tile[KeyTile<Kv, kDim>::kElements];
  float mu[kDim];
  float halves[2][kTileKeys];
};

// Block (row, query head of the group, span): k'(Sigma k + mu) of 1024 keys. A warp has 16 keys of
// a tile and half of the dimensions of Sigma k, with all of Sigma in shared memory.
template <class Kv, int kDim>
__global__ void __launch_bounds__(kScoreThreads, 2)
    LogitsKernel(const __grid_constant__ KernelParams params) {
  constexpr int kSteps = kDim / 16, kHalfTiles = kDim / 16;
  extern __shared__ __align__(16) uint8_t raw_shared[];
  auto& shared = *reinterpret_cast<LogitsShared<Kv, kDim>*>(raw_shared);
  constexpr int kStride = LogitsShared<Kv, kDim>::kStride;
  WaitForPriorKernels();
  LaunchDependents();
  const ExpectedAttentionParams& p = params.p;
  const CompressRow row = LoadCompressRow(p.rows, blockIdx.x);
  const int begin = row.first + blockIdx.z * kSpanKeys;
  const int end = min(row.old_length, begin + kSpanKeys);
  if (begin >= end || row.keep >= row.candidates) return;
  const int g = Group(p), head = blockIdx.x % p.rows.num_kv_heads * g + blockIdx.y;
  const int64_t index = blockIdx.x / p.rows.num_kv_heads * int64_t{p.queries.num_q_heads} + head;
  const uint4* sigma =
      reinterpret_cast<const uint4*>(params.layout.sigma + index * 2 * kDim * kDim);
  for (int i = threadIdx.x; i < 2 * kDim * kDim / 8; i += kScoreThreads) {
    const int r = i / (kDim / 8), c = i % (kDim / 8);  // both parts, row after row
    *reinterpret_cast<uint4*>(&shared.sigma[0][0] + r * kStride + c * 8) = sigma[i];
  }
  if (threadIdx.x < kDim) shared.mu[threadIdx.x] = params.layout.mu[index * kDim + threadIdx.x];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int first_key = warp % 4 * 16, half = warp / 4;
  float* logits =
      params.layout.logits + (int64_t{blockIdx.x} * g + blockIdx.y) * params.layout.stride;
  KeyTile<Kv, kDim> next;
  next.Load(row, p.rows.kv.pool, begin, end);
  for (int first = begin; first < end; first += kTileKeys) {
    __syncthreads();
    next.Store(shared.tile);
    __syncthreads();
    if (first + kTileKeys < end) next.Load(row, p.rows.kv.pool, first + kTileKeys, end);
    uint32_t a[kSteps][4];
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      ptx::LoadMatrices(
          a[step], ptx::SharedAddress(shared.tile + (first_key + lane % 16) * kStride + step * 16 +
                                      lane / 16 * 8));
    }
    float sum[2] = {0, 0};  // of keys lane / 4 and 8 further
    // Fully unrolled: the keys' elements that meet a product's are in registers.
#pragma unroll
    for (int n = 0; n < kHalfTiles; ++n) {
      const int tile = half * kHalfTiles + n;
      float c[2][4] = {};  // chains of their own
#pragma unroll
      for (int step = 0; step < kSteps; step += 2) {
#pragma unroll
        for (int part = 0; part < 2; ++part) {
          uint32_t b[4];
          LoadRightOperand(b, shared.sigma[part] + tile * 8 * kStride + step * 16, kStride);
          ptx::MmaBf16(c[part], a[step], b[0], b[1]);
          ptx::MmaBf16(c[part], a[step + 1], b[2], b[3]);
        }
      }
      const float2 mu = *reinterpret_cast<const float2*>(shared.mu + tile * 8 + lane % 4 * 2);
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        // Dimensions tile * 8 + ... are half `tile % 2` of step tile / 2.
        const uint32_t raw = half == 0 ? a[n / 2][n % 2 * 2 + r]
                                       : a[(kHalfTiles + n) / 2][(kHalfTiles + n) % 2 * 2 + r];
        const float2 key = __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(&raw));
        sum[r] += (c[0][2 * r] + c[1][2 * r] + mu.x) * key.x +
                  (c[0][2 * r + 1] + c[1][2 * r + 1] + mu.y) * key.y;
      }
    }
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      sum[r] += __shfl_xor_sync(~0u, sum[r], 1);
      sum[r] += __shfl_xor_sync(~0u, sum[r], 2);
      if (lane % 4 == 0) shared.halves[half][first_key + r * 8 + lane / 4] = sum[r];
    }
    __syncthreads();
    const int key = first + threadIdx.x;
    if (threadIdx.x < kTileKeys && key < end) {
      logits[key - row.first] = shared.halves[0][threadIdx.x] + shared.halves[1][threadIdx.x];
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
  take(layout->angles, size_t{1} * p.rows.batch.size * p.rows.tables.chunk * dim / 2);
  take(layout->sigma, heads * 2 * dim * dim);
  take(layout->mu, heads * dim);
  take(layout->logits, rows * group * layout->stride);
  take(layout->log_sums, rows * group);
  return at - static_cast<char*>(base);
}

template <class Kv, int kDim>
void Launch(const KernelParams& params, cudaStream_t stream) {
  const CompressParams& rows = params.p.rows;
  const int count = Rows(rows), group = params.p.queries.num_q_heads / rows.num_kv_heads;
  constexpr size_t kLogitsBytes = sizeof(LogitsShared<Kv, kDim>);
  [[maybe_unused]] static const bool raised = [] {
    TANGRAM_CUDA_CHECK(cudaFuncSetAttribute(LogitsKernel<Kv, kDim>,
                                            cudaFuncAttributeMaxDynamicSharedMemorySize,
                                            static_cast<int>(kLogitsBytes)));
    return true;
  }();
  RunQueryStatistics(params, stream);
  const int spans = (params.layout.stride + kSpanKeys - 1) / kSpanKeys;
  LaunchChainedShared(LogitsKernel<Kv, kDim>, dim3(count, group, spans), kScoreThreads,
                      kLogitsBytes, stream, params);
  LaunchChained(LogSumKernel, dim3(count, group), kScoreThreads, stream, params);
  LaunchChained(ScoreKernel<Kv, kDim>,
                dim3(count, (params.layout.stride + kBlockCandidates - 1) / kBlockCandidates),
                kScoreThreads, stream, params);
}

template <class Kv>
void LaunchDim(const KernelParams& params, cudaStream_t stream) {
  switch (params.p.rows.kv.head_dim) {
    case 64:
      return Launch<Kv, 64>(params, stream);
    case 128:
      return Launch<Kv, 128>(params, stream);
    default:
      std::fprintf(stderr, "expected attention: head_dim %d\n", params.p.rows.kv.head_dim);
      std::abort();
  }
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
  if (params.rows.kv.dtype == DType::kF8E4M3) {
    LaunchDim<__nv_fp8_e4m3>(kernel_params, stream);
  } else {
    LaunchDim<__nv_bfloat16>(kernel_params, stream);
  }
}

}  // namespace tangram::ops::cuda
