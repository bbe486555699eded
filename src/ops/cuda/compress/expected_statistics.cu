#include <cuda_fp16.h>

#include "ops/cuda/check.h"
#include "ops/cuda/compress/query_products.cuh"
#include "ops/cuda/compress/score_expected.h"
#include "ops/cuda/compress/score_tile.cuh"
#include "ops/cuda/device.h"
#include "ops/cuda/launch.cuh"

// One launch: mean and covariance of each query head.

namespace tangram::ops::cuda::expected {
namespace {

constexpr int kTileTokens = 64;      // of queries
constexpr int kAnchorTokens = 1024;  // rotations go on from one computed anew every so many
constexpr int kHighest = 10;         // binary digits of the largest variance in f16

// The mean of the rotations by pair `pair` over the positions from `first` on: a geometric series.
__device__ float2 MeanRotation(const ExpectedAttentionParams& p, int pair, int first) {
  const double angle = p.inv_freq[pair];
  const int count = p.future_positions;
  const double half = sin(angle / 2);
  const double length = half == 0 ? 1 : sin(count * angle / 2) / (count * half);
  double sine, cosine;
  sincos(angle * (first + (count - 1) / 2.0), &sine, &cosine);
  return {static_cast<float>(p.rope_scale * length * cosine),
          static_cast<float>(p.rope_scale * length * sine)};
}

// The largest of `value` over the block; all threads get it.
__device__ float BlockMax(float value) {
  __shared__ float warps[kScoreWarps];
#pragma unroll
  for (int step = 16; step > 0; step /= 2) value = fmaxf(value, __shfl_xor_sync(~0u, value, step));
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = value;
  __syncthreads();
  for (float other : warps) value = fmaxf(value, other);
  return value;
}

template <int kDim>
struct StatisticsShared {
  static constexpr int kMatrixStride = kDim + 4;
  union {
    __half tiles[2][kTileTokens * Products<kDim>::kStride];
    float matrix[kDim * kMatrixStride];  // once the tiles are done with
  };
  float shift[kDim], mean[kDim], group_sums[QueryReader<kDim, false>::kStep][kDim];
  float2 rotation[kDim / 2];
};

// Turns the covariance of a query head, whose sums are in shared memory, and its mean to the
// positions to come, and writes them in the units of the logits' base-2 exponent, times a power of
// two that makes the best of f16's range.
template <int kDim, bool kInterleaved>
__device__ void WriteStatistics(const KernelParams& params, int64_t index, int count,
                                const StatisticsShared<kDim>& shared) {
  constexpr int kPairs = kDim / 2, kStride = StatisticsShared<kDim>::kMatrixStride;
  const float share = params.p.use_covariance ? 1.0f / count : 0;
  const float other = params.p.use_covariance ? 1 : 0;
  const auto covariance = [&](int r, int c) {
    return shared.matrix[r * kStride + c] * share - other * shared.mean[r] * shared.mean[c];
  };
  constexpr float kSigmaUnit = kLog2E / (2 * kDim);
  const float variance =
      BlockMax(threadIdx.x < kDim ? covariance(threadIdx.x, threadIdx.x) : 0) * kSigmaUnit;
  const float scale = variance > 0 ? exp2f(kHighest - ilogbf(variance)) : 1;
  if (threadIdx.x == 0) params.layout.unit[index] = 1 / scale;
  __half* sigma = params.layout.sigma + index * kDim * kDim;
  const float sigma_scale = scale * kSigmaUnit, mu_scale = scale * kLog2E * rsqrtf(kDim);
  for (int j = threadIdx.x; j < kPairs * kPairs; j += kScoreThreads) {
    const int a = j / kPairs, b = j % kPairs;
    const int a1 = kInterleaved ? 2 * a : a, a2 = kInterleaved ? a1 + 1 : a + kPairs;
    const int b1 = kInterleaved ? 2 * b : b, b2 = kInterleaved ? b1 + 1 : b + kPairs;
    const float2 ra = shared.rotation[a], rb = shared.rotation[b];
    const float m11 = covariance(a1, b1), m12 = covariance(a1, b2);
    const float m21 = covariance(a2, b1), m22 = covariance(a2, b2);
    const float n11 = ra.x * m11 - ra.y * m21, n12 = ra.x * m12 - ra.y * m22;
    const float n21 = ra.y * m11 + ra.x * m21, n22 = ra.y * m12 + ra.x * m22;
    sigma[a1 * kDim + b1] = __float2half(sigma_scale * (n11 * rb.x - n12 * rb.y));
    sigma[a1 * kDim + b2] = __float2half(sigma_scale * (n11 * rb.y + n12 * rb.x));
    sigma[a2 * kDim + b1] = __float2half(sigma_scale * (n21 * rb.x - n22 * rb.y));
    sigma[a2 * kDim + b2] = __float2half(sigma_scale * (n21 * rb.y + n22 * rb.x));
    if (b == 0) {
      const float x = shared.shift[a1] + shared.mean[a1], y = shared.shift[a2] + shared.mean[a2];
      params.layout.mu[index * kDim + a1] = mu_scale * (ra.x * x - ra.y * y);
      params.layout.mu[index * kDim + a2] = mu_scale * (ra.y * x + ra.x * y);
    }
  }
}

// Writes a tile's queries in f16, and adds them to `sums`. Those behind the chunk's end become 0.
template <int kStride, bool kWhole, int kPerThread, class Reader>
__device__ void StoreTile(Reader& reader, const uint2 (&raw)[kPerThread], int group, int left,
                          float (&sums)[4], __half* tile) {
#pragma unroll
  for (int i = 0; i < kPerThread; ++i) {
    const int token = i * Reader::kStep + group;
    float x[4];
    reader.Unrotate(raw[i], x);
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      if (!kWhole && token >= left) x[k] = 0;
      sums[k] += x[k];
    }
#pragma unroll
    for (int k = 0; k < 4; k += 2) {
      *reinterpret_cast<__half2*>(tile + token * kStride + reader.Place(k / 2)) =
          __floats2half2_rn(x[k], x[k + 1]);
    }
  }
}

// Block (query head, layer, sequence): mean and covariance of the chunk's queries, rotated.
template <int kDim, bool kInterleaved>
__global__ void __launch_bounds__(kScoreThreads, 2)
    StatisticsKernel(const __grid_constant__ KernelParams params) {
  using Reader = QueryReader<kDim, kInterleaved>;
  constexpr int kTokenStride = Products<kDim>::kStride, kPerThread = kTileTokens / Reader::kStep;
  extern __shared__ __align__(16) uint8_t raw_shared[];
  auto& shared = *reinterpret_cast<StatisticsShared<kDim>*>(raw_shared);
  WaitForPriorKernels();
  LaunchDependents();
  const ExpectedAttentionParams& p = params.p;
  const int head = blockIdx.x, layer = p.rows.first_layer + blockIdx.y, sequence = blockIdx.z;
  const int boundary = p.rows.batch.boundary[sequence], chunk = p.rows.tables.chunk;
  const int skip = boundary == 1 ? p.rows.sinks : 0, count = chunk - skip;
  const int64_t first_row =
      (int64_t{p.rows.batch.slot[sequence]} * p.queries.num_layers + layer) * chunk + skip;
  const int64_t stride = int64_t{p.queries.num_q_heads} * kDim;
  const int lane = threadIdx.x % Reader::kLanes, group = threadIdx.x / Reader::kLanes;
  Reader reader{p,      p.queries.data + first_row * stride + head * kDim,
                stride, (boundary - 1) * chunk + skip,
                lane,   {},
                {},     {}};
  for (int pair = threadIdx.x; pair < kDim / 2; pair += kScoreThreads) {
    shared.rotation[pair] = MeanRotation(p, pair, boundary * chunk);
  }
  // Sums are of what differs from the first query.
  float first[4];
  reader.Anchor(0);
  reader.Unrotate(reader.Load(0), first);
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    reader.origin[k] = first[k];
    if (group == 0) shared.shift[reader.Place(k / 2) + k % 2] = first[k];
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    reader.step[i] = Rotation(Reader::kStep * p.inv_freq[2 * lane + i]);
  }
  uint2 next[kPerThread];
  Products<kDim> products;
  float sums[4] = {};
  reader.LoadTile(group, count, next);
  for (int begin = 0; begin < count; begin += kTileTokens) {
    __half* tile = shared.tiles[begin / kTileTokens % 2];
    if (begin % kAnchorTokens == 0) reader.Anchor(begin + group);
    if (begin + kTileTokens <= count) {
      StoreTile<kTokenStride, true>(reader, next, group, 0, sums, tile);
    } else {
      StoreTile<kTokenStride, false>(reader, next, group, count - begin, sums, tile);
    }
    __syncthreads();  // whoever writes the other tile next has multiplied what was there
    reader.LoadTile(begin + kTileTokens + group, count, next);
    if (!p.use_covariance) continue;
#pragma unroll
    for (int t = 0; t < kTileTokens; t += 16 * Products<kDim>::kTeams) {
      products.Add(tile + (t + 16 * products.team()) * kTokenStride);
    }
  }
#pragma unroll
  for (int k = 0; k < 4; ++k) shared.group_sums[group][reader.Place(k / 2) + k % 2] = sums[k];
  __syncthreads();
  float sum = 0;
  for (int g = 0; g < Reader::kStep && threadIdx.x < kDim; ++g) {
    sum += shared.group_sums[g][threadIdx.x];
  }
  if (threadIdx.x < kDim) shared.mean[threadIdx.x] = sum / count;
  for (int team = 0; team < Products<kDim>::kTeams; ++team) {
    if (team == products.team()) {
      products.AddTo(shared.matrix, StatisticsShared<kDim>::kMatrixStride);
    }
    __syncthreads();
  }
  const int64_t index =
      (int64_t{sequence} * p.rows.num_layers + blockIdx.y) * p.queries.num_q_heads + head;
  WriteStatistics<kDim, kInterleaved>(params, index, count, shared);
}

template <int kDim, bool kInterleaved>
void Launch(const KernelParams& params, cudaStream_t stream) {
  const CompressParams& rows = params.p.rows;
  constexpr size_t kSharedBytes = sizeof(StatisticsShared<kDim>);
  const auto kernel = StatisticsKernel<kDim, kInterleaved>;
  [[maybe_unused]] static const bool raised = [&] {
    TANGRAM_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                            static_cast<int>(kSharedBytes)));
    return true;
  }();
  LaunchChainedShared(kernel, dim3(params.p.queries.num_q_heads, rows.num_layers, rows.batch.size),
                      kScoreThreads, kSharedBytes, stream, params);
}

template <int kDim>
void LaunchStyle(const KernelParams& params, cudaStream_t stream) {
  params.p.rope_interleaved ? Launch<kDim, true>(params, stream)
                            : Launch<kDim, false>(params, stream);
}

}  // namespace

void RunQueryStatistics(const KernelParams& params, cudaStream_t stream) {
  params.p.rows.kv.head_dim == 64 ? LaunchStyle<64>(params, stream)
                                  : LaunchStyle<128>(params, stream);
}

}  // namespace tangram::ops::cuda::expected
