#pragma once

#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include <type_traits>

#include "ops/cuda/attention/decode_attention.h"
#include "ops/cuda/attention/decode_segments.cuh"
#include "ops/cuda/ptx.cuh"

// The arithmetic of the Hopper kernel (decode_sm90.cu) and the shape of what it reads.
namespace tangram::ops::cuda::decode_sm90 {

constexpr int kHeads = 8;             // columns of a product: query heads of a KV head, padded
constexpr int kSwizzleBytes = 128;    // a swizzled row: one half of d=128 in bf16
constexpr int kRingBytes = 24 << 10;  // of a warp

template <class Kv, int kDim>
struct Shape {
  static constexpr int kRowBytes = kDim * sizeof(Kv);
  static constexpr int kHalves = kRowBytes / kSwizzleBytes;
  static constexpr int kHalfBytes = 2 * kPageTokens * kSwizzleBytes;  // rows: K's tokens, then V's
  static constexpr int kPageBytes = kHalves * kHalfBytes;
  static constexpr int kStages = kRingBytes / kPageBytes;
  static constexpr int kSteps = kDim / 16;     // of 16 dimensions
  static constexpr int kOutStride = kDim + 4;  // no bank conflicts between heads
};

__device__ inline uint32_t PackF16(float low, float high) {
  const __half2 pair = __floats2half2_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&pair);
}
// Four e4m3 to two pairs of f16, exactly.
__device__ inline void WidenFp8(uint32_t bytes, uint32_t& low, uint32_t& high) {
  asm("{\n.reg .b16 l, h;\nmov.b32 {l, h}, %2;\ncvt.rn.f16x2.e4m3x2 %0, l;\n"
      "cvt.rn.f16x2.e4m3x2 %1, h;\n}"
      : "=r"(low), "=r"(high)
      : "r"(bytes));
}

// Arithmetic of one warp over pages in shared memory. Lane l: tokens l/4 and l/4 + 8 of S^T;
// dimensions by l/4 of O^T; heads 2*(l%4) and the next of both. fp8 becomes f16; contractions may
// run in any order of dimensions, and the rows of O^T in any order too, so fp8 needs no shuffles
// but one byte permutation of V.
template <class Kv, int kDim>
class WarpAttention {
  using S = Shape<Kv, kDim>;
  static constexpr bool kFp8 = std::is_same_v<Kv, __nv_fp8_e4m3>;

 public:
  __device__ WarpAttention() : lane_(threadIdx.x % 32) {}

  struct Query {
    uint32_t b[S::kSteps][2];
  };
  // The queries of one KV head as the right operand; heads past the group are 0.
  __device__ Query LoadQuery(const DecodeAttentionParams& p, int entry) const {
    Query query;
    const int group = p.num_q_heads / p.num_kv_heads;
    const int head = lane_ / 4, c = lane_ % 4;
    const __nv_bfloat16* q =
        p.q + entry / p.num_kv_heads * p.q_stride + (entry % p.num_kv_heads * group + head) * kDim;
#pragma unroll
    for (int step = 0; step < S::kSteps; ++step) {
      if (head >= group) {
        query.b[step][0] = query.b[step][1] = 0;
      } else if constexpr (kFp8) {
        const uint2 raw = *reinterpret_cast<const uint2*>(q + step * 16 + 4 * c);
        query.b[step][0] = ToF16(raw.x);
        query.b[step][1] = ToF16(raw.y);
      } else {
        query.b[step][0] = *reinterpret_cast<const uint32_t*>(q + step * 16 + 2 * c);
        query.b[step][1] = *reinterpret_cast<const uint32_t*>(q + step * 16 + 2 * c + 8);
      }
    }
    return query;
  }

  __device__ void Reset() {
#pragma unroll
    for (int i = 0; i < 2; ++i) max_[i] = -INFINITY, sum_[i] = 0;
#pragma unroll
    for (int step = 0; step < S::kSteps; ++step) {
#pragma unroll
      for (int i = 0; i < 4; ++i) out_[step][i] = 0;
    }
  }

  // One page, of which the first `valid` tokens count; what lies behind them may be anything, NaN
  // too.
  __device__ void AddPage(uint32_t page, const Query& query, int valid, float scale_log2) {
    float logits[4] = {};
    Logits(page, query, logits);
    const int token = lane_ / 4;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      logits[i] = token + i / 2 * 8 < valid ? logits[i] * scale_log2 : -INFINITY;
    }
    uint32_t weights[2];
    Softmax(logits, weights);
    // Tokens 2c, 2c+1 and 8 later of V, whose weight is 0, must be 0 themselves.
    const int first = 2 * (lane_ % 4);
    const uint32_t keep[2] = {Keep(first, valid), Keep(first + 8, valid)};
    Values(page + kPageTokens * kSwizzleBytes, weights, keep);
  }

  // Leaves the warp's sums of the first `heads` columns in shared memory, from column `first` on.
  __device__ void Store(float (*out)[S::kOutStride], float2* max_sum, int first, int heads) {
    ReduceSums();
    const int head = 2 * (lane_ % 4);
    if (head >= heads) return;
    if (lane_ < 4) {
      max_sum[first + head] = {max_[0], sum_[0]};
      max_sum[first + head + 1] = {max_[1], sum_[1]};
    }
#pragma unroll
    for (int step = 0; step < S::kSteps; ++step) {
#pragma unroll
      for (int i = 0; i < 4; ++i) out[first + head + i % 2][Dim(step, i)] = out_[step][i];
    }
  }

  // Writes the result of a segment that this warp did alone.
  __device__ void WriteSolo(const DecodeAttentionParams& p, const Segment& segment) {
    ReduceSums();
    const int group = p.num_q_heads / p.num_kv_heads;
    const bool whole = segment.partial_slot < 0;
    const int64_t first_row = int64_t{whole ? segment.entry : segment.partial_slot} * group;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int head = 2 * (lane_ % 4) + h;
      if (head >= group) continue;
      const int64_t row = first_row + head;
      if (!whole && lane_ < 4) p.partial_max_sum[row] = {max_[h], sum_[h]};
      const float inverse = 1 / sum_[h];
#pragma unroll
      for (int step = 0; step < S::kSteps; ++step) {
#pragma unroll
        for (int i = h; i < 4; i += 2) {
          if (whole) {
            p.out[row * kDim + Dim(step, i)] = __float2bfloat16(out_[step][i] * inverse);
          } else {
            p.partial_out[row * kDim + Dim(step, i)] = out_[step][i];
          }
        }
      }
    }
  }

 private:
  __device__ void ReduceSums() {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
      for (int step = 4; step < 32; step *= 2) sum_[i] += __shfl_xor_sync(~0u, sum_[i], step);
    }
  }
  // The dimension that register i of a step holds.
  __device__ int Dim(int step, int i) const {
    const int row = lane_ / 4;
    return step * 16 + (kFp8 ? 2 * row + i / 2 : row + i / 2 * 8);
  }
  __device__ static uint32_t ToF16(uint32_t bf16_pair) {
    const __nv_bfloat162 pair = *reinterpret_cast<const __nv_bfloat162*>(&bf16_pair);
    return PackF16(__low2float(pair), __high2float(pair));
  }
  __device__ static uint32_t Keep(int token, int valid) {
    return (token < valid ? 0xffffu : 0) | (token + 1 < valid ? 0xffff0000u : 0);
  }
  // Address of the 16-byte chunk of a row under the copy engine's 128-byte swizzle.
  __device__ static uint32_t Chunk(uint32_t base, int row, int chunk) {
    return base + chunk / 8 * S::kHalfBytes + row * kSwizzleBytes + ((chunk % 8) ^ (row % 8)) * 16;
  }
  __device__ static void Mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    if constexpr (kFp8) {
      ptx::MmaF16(c, a, b0, b1);
    } else {
      ptx::MmaBf16(c, a, b0, b1);
    }
  }

  __device__ void Logits(uint32_t keys, const Query& query, float (&logits)[4]) const {
    const int row = lane_ % 16, odd = lane_ / 16;
    float other[4] = {};  // two chains, half as long
    if constexpr (kFp8) {
#pragma unroll
      for (int step = 0; step < S::kSteps; step += 2) {
        uint32_t raw[4], a[4];
        ptx::LoadMatrices(raw, Chunk(keys, row, step + odd));
        WidenFp8(raw[0], a[0], a[2]);
        WidenFp8(raw[1], a[1], a[3]);
        Mma(logits, a, query.b[step][0], query.b[step][1]);
        WidenFp8(raw[2], a[0], a[2]);
        WidenFp8(raw[3], a[1], a[3]);
        Mma(other, a, query.b[step + 1][0], query.b[step + 1][1]);
      }
    } else {
#pragma unroll
      for (int step = 0; step < S::kSteps; ++step) {
        uint32_t a[4];
        ptx::LoadMatrices(a, Chunk(keys, row, 2 * step + odd));
        Mma(step % 2 ? other : logits, a, query.b[step][0], query.b[step][1]);
      }
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) logits[i] += other[i];
  }

  // Turns the logits of two heads over 16 tokens into weights against the running maximum.
  __device__ void Softmax(const float (&logits)[4], uint32_t (&weights)[2]) {
    float p[4], rescale[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      float maximum = fmaxf(logits[i], logits[i + 2]);
#pragma unroll
      for (int step = 4; step < 32; step *= 2) {
        maximum = fmaxf(maximum, __shfl_xor_sync(~0u, maximum, step));
      }
      maximum = fmaxf(maximum, max_[i]);
      rescale[i] = exp2f(max_[i] - maximum);
      max_[i] = maximum;
      p[i] = exp2f(logits[i] - maximum);
      p[i + 2] = exp2f(logits[i + 2] - maximum);
      sum_[i] = sum_[i] * rescale[i] + p[i] + p[i + 2];
    }
    if (__any_sync(~0u, rescale[0] != 1 || rescale[1] != 1)) {
#pragma unroll
      for (int step = 0; step < S::kSteps; ++step) {
#pragma unroll
        for (int i = 0; i < 4; ++i) out_[step][i] *= rescale[i % 2];
      }
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const float low = p[2 * i], high = p[2 * i + 1];
      weights[i] = ptx::TransposeMatrix(kFp8 ? PackF16(low, high) : ptx::PackBf16(low, high));
    }
  }

  __device__ void Values(uint32_t values, const uint32_t (&weights)[2], const uint32_t (&keep)[2]) {
    if constexpr (kFp8) {
      const int row = lane_ % 16, odd = lane_ / 16;
#pragma unroll
      for (int step = 0; step < S::kSteps; step += 2) {
        uint32_t raw[4], a[4];
        ptx::LoadMatricesTransposed(raw, Chunk(values, row, step + odd));
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          // Bytes (token 0: dims 0, 1; token 1: dims 0, 1) to (dim 0: tokens 0, 1; dim 1: tokens 0,
          // 1).
          const uint32_t early = __byte_perm(raw[2 * half] & keep[0], 0, 0x3120);
          const uint32_t late = __byte_perm(raw[2 * half + 1] & keep[1], 0, 0x3120);
          WidenFp8(early, a[0], a[1]);
          WidenFp8(late, a[2], a[3]);
          Mma(out_[step + half], a, weights[0], weights[1]);
        }
      }
    } else {
      const int row = lane_ % 8 + lane_ / 16 * 8, odd = lane_ / 8 % 2;
#pragma unroll
      for (int step = 0; step < S::kSteps; ++step) {
        uint32_t a[4];
        ptx::LoadMatricesTransposed(a, Chunk(values, row, 2 * step + odd));
        a[0] &= keep[0], a[1] &= keep[0], a[2] &= keep[1], a[3] &= keep[1];
        Mma(out_[step], a, weights[0], weights[1]);
      }
    }
  }

  int lane_;
  float max_[2], sum_[2];
  float out_[S::kSteps][4];
};

}  // namespace tangram::ops::cuda::decode_sm90
