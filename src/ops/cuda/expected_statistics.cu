#include "ops/cuda/check.h"
#include "ops/cuda/device.h"
#include "ops/cuda/launch.cuh"
#include "ops/cuda/ptx_sm80.cuh"
#include "ops/cuda/score_expected.h"
#include "ops/cuda/score_tile.cuh"

// Two launches: the rotation of each position of the chunk, then mean and covariance of each query
// head.

namespace tangram::ops::cuda::expected {
namespace {

constexpr int kTileTokens = 32;  // of queries

// Block (sequence, token of the chunk), a thread a pair.
__global__ void AngleKernel(const __grid_constant__ KernelParams params) {
  WaitForPriorKernels();
  LaunchDependents();
  const ExpectedAttentionParams& p = params.p;
  const int pair = threadIdx.x, token = blockIdx.x;
  const int position = (p.rows.batch.boundary[blockIdx.y] - 1) * p.rows.tables.chunk + token;
  float sine, cosine;
  sincosf(position * p.inv_freq[pair], &sine, &cosine);
  params.layout.angles[(int64_t{blockIdx.y} * p.rows.tables.chunk + token) * blockDim.x + pair] = {
      cosine / p.rope_scale, sine / p.rope_scale};
}

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

// Products of queries, summed over tokens: of 16 dimensions with some others, by warp. A query is
// the sum of two bf16, 16 bits of what it differs from the first one.
template <int kDim>
struct Products {
  static constexpr int kStride = kDim + 8;  // of a token in shared memory
  static constexpr int kRowTiles = kDim / 16, kGroups = kScoreWarps / kRowTiles;
  static constexpr int kColumnTiles = kDim / 8 / kGroups;
  float sums[kColumnTiles][4] = {};

  __device__ int row() const { return threadIdx.x / 32 % kRowTiles * 16; }
  __device__ int column(int tile) const {
    return (threadIdx.x / 32 / kRowTiles * kColumnTiles + tile) * 8;
  }

  // Adds 16 tokens, [token][dimension] in a high and a low part.
  __device__ void Add(const __nv_bfloat16* high, const __nv_bfloat16* low) {
    const int lane = threadIdx.x % 32;
    const int row_at = (lane % 8 + lane / 16 * 8) * kStride + lane / 8 % 2 * 8 + row();
    uint32_t a[4], a_low[4];
    ptx::LoadMatricesTransposed(a, ptx::SharedAddress(high + row_at));
    ptx::LoadMatricesTransposed(a_low, ptx::SharedAddress(low + row_at));
#pragma unroll
    for (int tile = 0; tile < kColumnTiles; tile += 2) {
      const int at = lane % 16 * kStride + lane / 16 * 8 + column(tile);
      uint32_t b[4], b_low[4];
      ptx::LoadMatricesTransposed(b, ptx::SharedAddress(high + at));
      ptx::LoadMatricesTransposed(b_low, ptx::SharedAddress(low + at));
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        ptx::MmaBf16(sums[tile + i], a, b[2 * i], b[2 * i + 1]);
        ptx::MmaBf16(sums[tile + i], a, b_low[2 * i], b_low[2 * i + 1]);
        ptx::MmaBf16(sums[tile + i], a_low, b[2 * i], b[2 * i + 1]);
      }
    }
  }
};

// A query's elements in two neighbouring pairs, with their angles.
struct RawPairs {
  uint2 q;
  float4 angle;
};

// Reads the queries of one head of a chunk as they were before rotation.
template <int kDim>
struct QueryReader {
  static constexpr int kPairs = kDim / 2;
  const __nv_bfloat16* first;  // of the chunk
  int64_t stride;              // from token to token
  const float2* angles;        // [C][d/2]
  bool interleaved;

  __device__ RawPairs Load(int token, int two_pairs) const {
    const __nv_bfloat16* q = first + token * stride;
    RawPairs raw;
    if (interleaved) {
      raw.q = *reinterpret_cast<const uint2*>(q + 4 * two_pairs);
    } else {
      raw.q.x = *reinterpret_cast<const uint32_t*>(q + 2 * two_pairs);
      raw.q.y = *reinterpret_cast<const uint32_t*>(q + 2 * two_pairs + kPairs);
    }
    raw.angle = *reinterpret_cast<const float4*>(angles + int64_t{token} * kPairs + 2 * two_pairs);
    return raw;
  }
  // Where the four elements are: two by two beside each other.
  __device__ int Place(int two_pairs, int half) const {
    return interleaved ? 4 * two_pairs + 2 * half : 2 * two_pairs + half * kPairs;
  }
  __device__ void Unrotate(const RawPairs& raw, float (&x)[4]) const {
    const float2 a = __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(&raw.q.x));
    const float2 b = __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(&raw.q.y));
    const float4 r = raw.angle;
    const float2 one = interleaved ? a : make_float2(a.x, b.x);
    const float2 two = interleaved ? b : make_float2(a.y, b.y);
    const float2 u = {one.x * r.x + one.y * r.y, one.y * r.x - one.x * r.y};
    const float2 v = {two.x * r.z + two.y * r.w, two.y * r.z - two.x * r.w};
    x[0] = u.x, x[1] = interleaved ? u.y : v.x, x[2] = interleaved ? v.x : u.y, x[3] = v.y;
  }
};

// Block (query head, layer, sequence): mean and covariance of the chunk's queries, rotated.
template <int kDim>
__global__ void __launch_bounds__(kScoreThreads, 2)
    StatisticsKernel(const __grid_constant__ KernelParams params) {
  constexpr int kPairs = kDim / 2, kStride = kDim + 4, kTokenStride = Products<kDim>::kStride;
  constexpr int kLanes = kPairs / 2, kGroups = kScoreThreads / kLanes;  // of tokens in flight
  constexpr int kPerThread = kTileTokens / kGroups;
  extern __shared__ __align__(16) float shared[];
  __nv_bfloat16* high = reinterpret_cast<__nv_bfloat16*>(shared);  // [kTileTokens][kTokenStride]
  __nv_bfloat16* low = high + kTileTokens * kTokenStride;
  float* matrix = shared;  // [kDim][kStride], once the tiles are done with
  __shared__ float shift[kDim], mean[kDim], group_sums[kGroups][kDim];
  __shared__ float2 rotation[kPairs];
  WaitForPriorKernels();
  LaunchDependents();
  const ExpectedAttentionParams& p = params.p;
  const int head = blockIdx.x, layer = p.rows.first_layer + blockIdx.y, sequence = blockIdx.z;
  const int boundary = p.rows.batch.boundary[sequence], chunk = p.rows.tables.chunk;
  const int skip = boundary == 1 ? p.rows.sinks : 0, count = chunk - skip;
  const int64_t first_row =
      (int64_t{p.rows.batch.slot[sequence]} * p.queries.num_layers + layer) * chunk + skip;
  const int64_t stride = int64_t{p.queries.num_q_heads} * kDim;
  const QueryReader<kDim> reader{p.queries.data + first_row * stride + head * kDim, stride,
                                 params.layout.angles + (int64_t{sequence} * chunk + skip) * kPairs,
                                 p.rope_interleaved};
  const int lane = threadIdx.x % kLanes, group = threadIdx.x / kLanes;
  for (int pair = threadIdx.x; pair < kPairs; pair += kScoreThreads) {
    rotation[pair] = MeanRotation(p, pair, boundary * chunk);
  }
  float origin[4];  // the first query: sums are of what differs from it
  reader.Unrotate(reader.Load(0, lane), origin);
  if (group == 0) {
#pragma unroll
    for (int k = 0; k < 4; ++k) shift[reader.Place(lane, k / 2) + k % 2] = origin[k];
  }
  RawPairs next[kPerThread];
  auto load = [&](int begin) {
#pragma unroll
    for (int i = 0; i < kPerThread; ++i) {
      next[i] = reader.Load(min(begin + i * kGroups + group, count - 1), lane);
    }
  };
  Products<kDim> products;
  float sums[4] = {};
  load(0);
  for (int begin = 0; begin < count; begin += kTileTokens) {
    __syncthreads();
#pragma unroll
    for (int i = 0; i < kPerThread; ++i) {
      const int token = i * kGroups + group;
      float x[4];
      reader.Unrotate(next[i], x);
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        x[k] = begin + token < count ? x[k] - origin[k] : 0;
        sums[k] += x[k];
      }
#pragma unroll
      for (int k = 0; k < 4; k += 2) {
        const __nv_bfloat162 rounded = __floats2bfloat162_rn(x[k], x[k + 1]);
        const float2 back = __bfloat1622float2(rounded);
        const int at = token * kTokenStride + reader.Place(lane, k / 2);
        *reinterpret_cast<__nv_bfloat162*>(high + at) = rounded;
        *reinterpret_cast<__nv_bfloat162*>(low + at) =
            __floats2bfloat162_rn(x[k] - back.x, x[k + 1] - back.y);
      }
    }
    __syncthreads();
    load(begin + kTileTokens);
    if (!p.use_covariance) continue;
#pragma unroll
    for (int t = 0; t < kTileTokens; t += 16) {
      products.Add(high + t * kTokenStride, low + t * kTokenStride);
    }
  }
#pragma unroll
  for (int k = 0; k < 4; ++k) group_sums[group][reader.Place(lane, k / 2) + k % 2] = sums[k];
  __syncthreads();
  float sum = 0;
  for (int g = 0; g < kGroups && threadIdx.x < kDim; ++g) sum += group_sums[g][threadIdx.x];
  if (threadIdx.x < kDim) mean[threadIdx.x] = sum / count;
  __syncthreads();
#pragma unroll
  for (int tile = 0; tile < Products<kDim>::kColumnTiles; ++tile) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int r = products.row() + i / 2 * 8 + threadIdx.x % 32 / 4;
      const int c = products.column(tile) + threadIdx.x % 4 * 2 + i % 2;
      matrix[r * kStride + c] =
          p.use_covariance ? products.sums[tile][i] / count - mean[r] * mean[c] : 0;
    }
  }
  __syncthreads();
  const int64_t index =
      (int64_t{sequence} * p.rows.num_layers + blockIdx.y) * p.queries.num_q_heads + head;
  __nv_bfloat16* sigma = params.layout.sigma + index * 2 * kDim * kDim;
  auto write = [&](int r, int c, float value) {
    value *= kLog2E / (2 * kDim);
    const __nv_bfloat16 high = __float2bfloat16(value);
    sigma[r * kDim + c] = high;
    sigma[kDim * kDim + r * kDim + c] = __float2bfloat16(value - __bfloat162float(high));
  };
  for (int j = threadIdx.x; j < kPairs * kPairs; j += kScoreThreads) {
    const int a = j / kPairs, b = j % kPairs;
    const int a1 = p.rope_interleaved ? 2 * a : a, a2 = p.rope_interleaved ? a1 + 1 : a + kPairs;
    const int b1 = p.rope_interleaved ? 2 * b : b, b2 = p.rope_interleaved ? b1 + 1 : b + kPairs;
    const float2 ra = rotation[a], rb = rotation[b];
    const float m11 = matrix[a1 * kStride + b1], m12 = matrix[a1 * kStride + b2];
    const float m21 = matrix[a2 * kStride + b1], m22 = matrix[a2 * kStride + b2];
    const float n11 = ra.x * m11 - ra.y * m21, n12 = ra.x * m12 - ra.y * m22;
    const float n21 = ra.y * m11 + ra.x * m21, n22 = ra.y * m12 + ra.x * m22;
    write(a1, b1, n11 * rb.x - n12 * rb.y);
    write(a1, b2, n11 * rb.y + n12 * rb.x);
    write(a2, b1, n21 * rb.x - n22 * rb.y);
    write(a2, b2, n21 * rb.y + n22 * rb.x);
    if (b == 0) {
      const float scale = kLog2E * rsqrtf(kDim);
      const float x = shift[a1] + mean[a1], y = shift[a2] + mean[a2];
      params.layout.mu[index * kDim + a1] = scale * (ra.x * x - ra.y * y);
      params.layout.mu[index * kDim + a2] = scale * (ra.y * x + ra.x * y);
    }
  }
}

template <int kDim>
void Launch(const KernelParams& params, cudaStream_t stream) {
  const CompressParams& rows = params.p.rows;
  constexpr size_t kMatrixBytes = sizeof(float) * kDim * (kDim + 4);
  [[maybe_unused]] static const bool raised = [] {
    TANGRAM_CUDA_CHECK(cudaFuncSetAttribute(StatisticsKernel<kDim>,
                                            cudaFuncAttributeMaxDynamicSharedMemorySize,
                                            static_cast<int>(kMatrixBytes)));
    return true;
  }();
  LaunchChained(AngleKernel, dim3(rows.tables.chunk, rows.batch.size), kDim / 2, stream, params);
  LaunchChainedShared(StatisticsKernel<kDim>,
                      dim3(params.p.queries.num_q_heads, rows.num_layers, rows.batch.size),
                      kScoreThreads, kMatrixBytes, stream, params);
}

}  // namespace

void RunQueryStatistics(const KernelParams& params, cudaStream_t stream) {
  params.p.rows.kv.head_dim == 64 ? Launch<64>(params, stream) : Launch<128>(params, stream);
}

}  // namespace tangram::ops::cuda::expected
