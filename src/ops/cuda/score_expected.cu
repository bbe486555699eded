#include <type_traits>

#include "ops/cuda/check.h"
#include "ops/cuda/device.h"
#include "ops/cuda/kv_load.cuh"
#include "ops/cuda/launch.cuh"
#include "ops/cuda/score_queries.h"
#include "ops/cuda/score_tile.cuh"

// ExpectedAttention in five launches: the rotation of each position, the statistics of each query
// head, the logits of each key, the denominators of their softmax, the scores.

namespace tangram::ops::cuda {
namespace {

constexpr float kLog2E = 1.44269504088896f;
constexpr int kSpanKeys = 1024;  // that a block takes with one query head's matrix
constexpr int kTileTokens = 32;  // of queries

struct Layout {
  float2* angles;        // [sequences][C][d/2] (cosine, sine) over the scale, to rotate back
  __nv_bfloat16* sigma;  // [sequences][layers][Hq][2][d][d]: high and low part, in base 2
  float* mu;             // [sequences][layers][Hq][d]
  float* logits;         // [rows][g][stride], by key from the first candidate on
  float* log_sums;       // [rows][g]
  int stride;
};

struct KernelParams {
  ExpectedAttentionParams p;
  Layout layout;
};

__device__ int Group(const ExpectedAttentionParams& p) {
  return p.queries.num_q_heads / p.rows.num_kv_heads;
}

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
  constexpr size_t kMatrixBytes = sizeof(float) * kDim * (kDim + 4);
  constexpr size_t kLogitsBytes = sizeof(LogitsShared<Kv, kDim>);
  [[maybe_unused]] static const bool raised = [] {
    TANGRAM_CUDA_CHECK(cudaFuncSetAttribute(StatisticsKernel<kDim>,
                                            cudaFuncAttributeMaxDynamicSharedMemorySize,
                                            static_cast<int>(kMatrixBytes)));
    TANGRAM_CUDA_CHECK(cudaFuncSetAttribute(LogitsKernel<Kv, kDim>,
                                            cudaFuncAttributeMaxDynamicSharedMemorySize,
                                            static_cast<int>(kLogitsBytes)));
    return true;
  }();
  LaunchChained(AngleKernel, dim3(rows.tables.chunk, rows.batch.size), kDim / 2, stream, params);
  LaunchChainedShared(StatisticsKernel<kDim>,
                      dim3(params.p.queries.num_q_heads, rows.num_layers, rows.batch.size),
                      kScoreThreads, kMatrixBytes, stream, params);
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
