#include <cuda_fp16.h>

#include "ops/cuda/check.h"
#include "ops/cuda/device.h"
#include "ops/cuda/launch.cuh"
#include "ops/cuda/ptx_sm80.cuh"
#include "ops/cuda/score_expected.h"
#include "ops/cuda/score_tile.cuh"

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

// (cosine, sine) of an angle, which is reduced to one turn in f64.
__device__ float2 Rotation(float angle) {
  const double turns = angle * (0.5 / 3.14159265358979323846);
  float2 r;
  sincospif(2 * static_cast<float>(turns - rint(turns)), &r.y, &r.x);
  return r;
}
__device__ float2 Multiply(float2 a, float2 b) {
  return {a.x * b.x - a.y * b.y, a.x * b.y + a.y * b.x};
}

// Products of queries, summed over tokens: a warp has those of half of the dimensions with a
// quarter. Queries are rounded to f16: the error of a sum over so many tokens is far smaller.
template <int kDim>
struct Products {
  static constexpr int kStride = kDim + 8;  // of a token in shared memory
  static constexpr int kRowTiles = kDim / 2 / 16, kColumnTiles = kDim / 4 / 8;
  float sums[kRowTiles][kColumnTiles][4] = {};

  __device__ int row(int tile) const { return threadIdx.x / 128 * (kDim / 2) + tile * 16; }
  __device__ int column(int tile) const { return threadIdx.x / 32 % 4 * (kDim / 4) + tile * 8; }

  // Adds 16 tokens, [token][dimension].
  __device__ void Add(const __half* tokens) {
    const int lane = threadIdx.x % 32;
    uint32_t a[kRowTiles][4];
#pragma unroll
    for (int r = 0; r < kRowTiles; ++r) {
      ptx::LoadMatricesTransposed(a[r],
                                  ptx::SharedAddress(tokens + (lane % 8 + lane / 16 * 8) * kStride +
                                                     lane / 8 % 2 * 8 + row(r)));
    }
#pragma unroll
    for (int c = 0; c < kColumnTiles; c += 2) {
      uint32_t b[4];
      ptx::LoadMatricesTransposed(
          b, ptx::SharedAddress(tokens + lane % 16 * kStride + lane / 16 * 8 + column(c)));
#pragma unroll
      for (int r = 0; r < kRowTiles; ++r) {
        ptx::MmaF16(sums[r][c], a[r], b[0], b[1]);
        ptx::MmaF16(sums[r][c + 1], a[r], b[2], b[3]);
      }
    }
  }
};

// Reads the queries of one head of a chunk as they were before rotation: a thread two neighbouring
// pairs of every kStep-th token.
template <int kDim>
struct QueryReader {
  static constexpr int kPairs = kDim / 2;
  static constexpr int kLanes = kPairs / 2, kStep = kScoreThreads / kLanes;
  const ExpectedAttentionParams& p;
  const __nv_bfloat16* first;  // of the chunk, at the thread's pairs
  int first_position;
  int two_pairs;       // which
  float2 rotation[2];  // of the token in turn, over the scale
  float2 step[2];      // from one of the thread's tokens to the next

  __device__ void Anchor(int token) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      rotation[i] = Rotation((first_position + token) * p.inv_freq[2 * two_pairs + i]);
      rotation[i].x /= p.rope_scale, rotation[i].y /= p.rope_scale;
    }
  }
  __device__ uint2 Load(int token) const {
    const __nv_bfloat16* q = first + token * (int64_t{p.queries.num_q_heads} * kDim);
    if (p.rope_interleaved) return *reinterpret_cast<const uint2*>(q + 4 * two_pairs);
    return {*reinterpret_cast<const uint32_t*>(q + 2 * two_pairs),
            *reinterpret_cast<const uint32_t*>(q + 2 * two_pairs + kPairs)};
  }
  // Where the four elements are: two by two beside each other.
  __device__ int Place(int half) const {
    return p.rope_interleaved ? 4 * two_pairs + 2 * half : 2 * two_pairs + half * kPairs;
  }
  // Rotates back, and goes on to the thread's next token.
  __device__ void Unrotate(uint2 raw, float (&x)[4]) {
    const float2 a = __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(&raw.x));
    const float2 b = __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(&raw.y));
    const float2 one = p.rope_interleaved ? a : make_float2(a.x, b.x);
    const float2 two = p.rope_interleaved ? b : make_float2(a.y, b.y);
    const float2 r = rotation[0], t = rotation[1];
    const float2 u = {one.x * r.x + one.y * r.y, one.y * r.x - one.x * r.y};
    const float2 v = {two.x * t.x + two.y * t.y, two.y * t.x - two.x * t.y};
    x[0] = u.x, x[1] = p.rope_interleaved ? u.y : v.x;
    x[2] = p.rope_interleaved ? v.x : u.y, x[3] = v.y;
    rotation[0] = Multiply(r, step[0]), rotation[1] = Multiply(t, step[1]);
  }
};

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
  float shift[kDim], mean[kDim], group_sums[QueryReader<kDim>::kStep][kDim];
  float2 rotation[kDim / 2];
};

// Turns the covariance of a query head, in shared memory, and its mean to the positions to come,
// and writes them in the units of the logits' base-2 exponent, times a power of two that makes the
// best of f16's range.
template <int kDim>
__device__ void WriteStatistics(const KernelParams& params, int64_t index,
                                const StatisticsShared<kDim>& shared) {
  constexpr int kPairs = kDim / 2, kStride = StatisticsShared<kDim>::kMatrixStride;
  const float* matrix = shared.matrix;
  const ExpectedAttentionParams& p = params.p;
  const float variance =
      BlockMax(threadIdx.x < kDim ? matrix[threadIdx.x * (kStride + 1)] : 0) * kLog2E / (2 * kDim);
  const float scale = variance > 0 ? exp2f(kHighest - ilogbf(variance)) : 1;
  if (threadIdx.x == 0) params.layout.unit[index] = 1 / scale;
  __half* sigma = params.layout.sigma + index * kDim * kDim;
  const float sigma_scale = scale * kLog2E / (2 * kDim), mu_scale = scale * kLog2E * rsqrtf(kDim);
  for (int j = threadIdx.x; j < kPairs * kPairs; j += kScoreThreads) {
    const int a = j / kPairs, b = j % kPairs;
    const int a1 = p.rope_interleaved ? 2 * a : a, a2 = p.rope_interleaved ? a1 + 1 : a + kPairs;
    const int b1 = p.rope_interleaved ? 2 * b : b, b2 = p.rope_interleaved ? b1 + 1 : b + kPairs;
    const float2 ra = shared.rotation[a], rb = shared.rotation[b];
    const float m11 = matrix[a1 * kStride + b1], m12 = matrix[a1 * kStride + b2];
    const float m21 = matrix[a2 * kStride + b1], m22 = matrix[a2 * kStride + b2];
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

// Block (query head, layer, sequence): mean and covariance of the chunk's queries, rotated.
template <int kDim>
__global__ void __launch_bounds__(kScoreThreads, 2)
    StatisticsKernel(const __grid_constant__ KernelParams params) {
  using Reader = QueryReader<kDim>;
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
  const int lane = threadIdx.x % Reader::kLanes, group = threadIdx.x / Reader::kLanes;
  Reader reader{p,
                p.queries.data + (first_row * p.queries.num_q_heads + head) * kDim,
                (boundary - 1) * chunk + skip,
                lane,
                {},
                {}};
  for (int pair = threadIdx.x; pair < kDim / 2; pair += kScoreThreads) {
    shared.rotation[pair] = MeanRotation(p, pair, boundary * chunk);
  }
  float origin[4];  // the first query: sums are of what differs from it
  reader.Anchor(0);
  reader.Unrotate(reader.Load(0), origin);
  if (group == 0) {
#pragma unroll
    for (int k = 0; k < 4; ++k) shared.shift[reader.Place(k / 2) + k % 2] = origin[k];
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    reader.step[i] = Rotation(Reader::kStep * p.inv_freq[2 * lane + i]);
  }
  uint2 next[kPerThread];
  auto load = [&](int begin) {
#pragma unroll
    for (int i = 0; i < kPerThread; ++i) {
      next[i] = reader.Load(min(begin + i * Reader::kStep + group, count - 1));
    }
  };
  Products<kDim> products;
  float sums[4] = {};
  load(0);
  for (int begin = 0; begin < count; begin += kTileTokens) {
    __half* tile = shared.tiles[begin / kTileTokens % 2];
    if (begin % kAnchorTokens == 0) reader.Anchor(begin + group);
#pragma unroll
    for (int i = 0; i < kPerThread; ++i) {
      const int token = i * Reader::kStep + group;
      float x[4];
      reader.Unrotate(next[i], x);
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        x[k] = begin + token < count ? x[k] - origin[k] : 0;
        sums[k] += x[k];
      }
#pragma unroll
      for (int k = 0; k < 4; k += 2) {
        *reinterpret_cast<__half2*>(tile + token * kTokenStride + reader.Place(k / 2)) =
            __floats2half2_rn(x[k], x[k + 1]);
      }
    }
    __syncthreads();  // whoever writes the other tile next has multiplied what was there
    load(begin + kTileTokens);
    if (!p.use_covariance) continue;
#pragma unroll
    for (int t = 0; t < kTileTokens; t += 16) products.Add(tile + t * kTokenStride);
  }
#pragma unroll
  for (int k = 0; k < 4; ++k) shared.group_sums[group][reader.Place(k / 2) + k % 2] = sums[k];
  __syncthreads();
  float sum = 0;
  for (int g = 0; g < Reader::kStep && threadIdx.x < kDim; ++g) {
    sum += shared.group_sums[g][threadIdx.x];
  }
  if (threadIdx.x < kDim) shared.mean[threadIdx.x] = sum / count;
  __syncthreads();
#pragma unroll
  for (int row = 0; row < Products<kDim>::kRowTiles; ++row) {
#pragma unroll
    for (int column = 0; column < Products<kDim>::kColumnTiles; ++column) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int r = products.row(row) + i / 2 * 8 + threadIdx.x % 32 / 4;
        const int c = products.column(column) + threadIdx.x % 4 * 2 + i % 2;
        shared.matrix[r * StatisticsShared<kDim>::kMatrixStride + c] =
            p.use_covariance
                ? products.sums[row][column][i] / count - shared.mean[r] * shared.mean[c]
                : 0;
      }
    }
  }
  __syncthreads();
  const int64_t index =
      (int64_t{sequence} * p.rows.num_layers + blockIdx.y) * p.queries.num_q_heads + head;
  WriteStatistics<kDim>(params, index, shared);
}

template <int kDim>
void Launch(const KernelParams& params, cudaStream_t stream) {
  const CompressParams& rows = params.p.rows;
  constexpr size_t kSharedBytes = sizeof(StatisticsShared<kDim>);
  [[maybe_unused]] static const bool raised = [] {
    TANGRAM_CUDA_CHECK(cudaFuncSetAttribute(StatisticsKernel<kDim>,
                                            cudaFuncAttributeMaxDynamicSharedMemorySize,
                                            static_cast<int>(kSharedBytes)));
    return true;
  }();
  LaunchChainedShared(StatisticsKernel<kDim>,
                      dim3(params.p.queries.num_q_heads, rows.num_layers, rows.batch.size),
                      kScoreThreads, kSharedBytes, stream, params);
}

}  // namespace

void RunQueryStatistics(const KernelParams& params, cudaStream_t stream) {
  params.p.rows.kv.head_dim == 64 ? Launch<64>(params, stream) : Launch<128>(params, stream);
}

}  // namespace tangram::ops::cuda::expected
