#include "ops/cuda/attention/prefill.h"
#include "ops/cuda/check.h"
#include "ops/cuda/fp8.cuh"
#include "ops/cuda/launch.cuh"
#include "ops/cuda/ptx_sm80.cuh"

// Prefill attention in its plain form, for GPUs since sm_80 that the tuned one does not run on, and
// its reference. A block is half a tile: four warps of 16 packed rows (token, head), over blocks of
// 64 keys that are copied to shared memory, fp8 ones expanded to bf16, exactly, on the way.

namespace tangram::ops::cuda {
namespace {

constexpr int kBlockKeys = 64;
constexpr int kWarps = 4;
constexpr int kRows = 16 * kWarps;

struct KernelArgs {
  PrefillArgs a;
  int heads_per_kv;
};

template <class T>
__device__ __forceinline__ uint4 LoadEight(const T* from);
template <>
__device__ __forceinline__ uint4 LoadEight(const __nv_bfloat16* from) {
  return *reinterpret_cast<const uint4*>(from);
}
template <>
__device__ __forceinline__ uint4 LoadEight(const __nv_fp8_e4m3* from) {
  return ExpandFp8(*reinterpret_cast<const uint2*>(from));
}

// Rows of `kDim` bf16 padded by 16 bytes, so that eight rows lie in different banks.
template <int kDim>
struct Block {
  __nv_bfloat16 rows[kBlockKeys][kDim + 8];
};

// Copies keys (part 0) or values (part 1) `first`.. of the row; zeros from key `end` on.
template <class T, int kDim>
__device__ void CopyBlock(const PrefillArgs& a, const PrefillItem& item, int part, int first,
                          int end, Block<kDim>& to) {
  constexpr int kChunks = kDim / 8;
  for (int i = threadIdx.x; i < kBlockKeys * kChunks; i += 32 * kWarps) {
    const int key = first + i / kChunks;
    uint4 value = {0, 0, 0, 0};
    if (key < end) {
      const int64_t page = a.kv.page_table[item.page_table + key / kPageTokens];
      const int64_t block = 2 * (page * a.kv.group_size + item.column) + part;
      value = LoadEight(static_cast<const T*>(a.kv.pool) +
                        (block * kPageTokens + key % kPageTokens) * kDim + i % kChunks * 8);
    }
    *reinterpret_cast<uint4*>(&to.rows[i / kChunks][i % kChunks * 8]) = value;
  }
}

// The 16 rows of a warp: packed row r of the tile is token r / g, head r % g of the item. A thread
// has rows lane/4 and lane/4 + 8.
template <int kDim>
struct Warp {
  uint32_t queries[kDim / 16][4];
  float scores[kBlockKeys / 8][4], sums[kDim / 8][4];
  float top[2], total[2];
  int limit[2], lane;
  float scale_log2;

  __device__ void LoadQueries(const KernelArgs& k, const PrefillItem& item, int first_row) {
    const int heads = k.a.num_q_heads + 2 * k.a.num_kv_heads;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int row = first_row + lane / 4 + 8 * r;
      const int token = min(row / k.heads_per_kv, item.num_tokens - 1);
      const int head = item.kv_head * k.heads_per_kv + row % k.heads_per_kv;
      limit[r] = item.num_keys + token;
      top[r] = -INFINITY, total[r] = 0;
      const uint32_t* from = reinterpret_cast<const uint32_t*>(
          k.a.qkv + (static_cast<int64_t>(item.first_token + token) * heads + head) * kDim);
#pragma unroll
      for (int i = 0; i < kDim / 16; ++i) {
        queries[i][r] = from[i * 8 + lane % 4];
        queries[i][r + 2] = from[i * 8 + 4 + lane % 4];
      }
    }
#pragma unroll
    for (auto& sum : sums) sum[0] = sum[1] = sum[2] = sum[3] = 0;
  }

  __device__ void MultiplyKeys(const Block<kDim>& keys) {
#pragma unroll
    for (int n = 0; n < kBlockKeys / 8; ++n) {
      scores[n][0] = scores[n][1] = scores[n][2] = scores[n][3] = 0;
#pragma unroll
      for (int k = 0; k < kDim / 32; ++k) {
        uint32_t b[4];
        ptx::LoadMatrices(b,
                          ptx::SharedAddress(&keys.rows[8 * n + lane % 8][32 * k + lane / 8 * 8]));
        ptx::MmaBf16(scores[n], queries[2 * k], b[0], b[1]);
        ptx::MmaBf16(scores[n], queries[2 * k + 1], b[2], b[3]);
      }
    }
  }

  // Scores become exp2((score - top) * scale); what was summed is scaled to the new top.
  __device__ void Softmax(int first_key) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float high = top[r];
#pragma unroll
      for (int n = 0; n < kBlockKeys / 8; ++n) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          float& score = scores[n][2 * r + i];
          if (first_key + 8 * n + 2 * (lane % 4) + i >= limit[r]) score = -INFINITY;
          high = fmaxf(high, score);
        }
      }
      high = fmaxf(high, __shfl_xor_sync(~0u, high, 1));
      high = fmaxf(high, __shfl_xor_sync(~0u, high, 2));
      const float rescale = exp2f((top[r] - high) * scale_log2);
      top[r] = high;
      total[r] *= rescale;
#pragma unroll
      for (int n = 0; n < kBlockKeys / 8; ++n) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          float& score = scores[n][2 * r + i];
          score = exp2f((score - high) * scale_log2);
          total[r] += score;
        }
      }
#pragma unroll
      for (auto& sum : sums) sum[2 * r] *= rescale, sum[2 * r + 1] *= rescale;
    }
  }

  __device__ void MultiplyValues(const Block<kDim>& values) {
#pragma unroll
    for (int k = 0; k < kBlockKeys / 16; ++k) {
      const float(&s)[4] = scores[2 * k];
      const float(&t)[4] = scores[2 * k + 1];
      const uint32_t a[4] = {ptx::PackBf16(s[0], s[1]), ptx::PackBf16(s[2], s[3]),
                             ptx::PackBf16(t[0], t[1]), ptx::PackBf16(t[2], t[3])};
#pragma unroll
      for (int n = 0; n < kDim / 16; ++n) {
        uint32_t b[4];
        ptx::LoadMatricesTransposed(
            b, ptx::SharedAddress(&values.rows[16 * k + lane % 16][16 * n + lane / 16 * 8]));
        ptx::MmaBf16(sums[2 * n], a, b[0], b[1]);
        ptx::MmaBf16(sums[2 * n + 1], a, b[2], b[3]);
      }
    }
  }

  __device__ void Write(const KernelArgs& k, const PrefillItem& item, int first_row) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      total[r] += __shfl_xor_sync(~0u, total[r], 1);
      total[r] += __shfl_xor_sync(~0u, total[r], 2);
      const int row = first_row + lane / 4 + 8 * r, token = row / k.heads_per_kv;
      if (token >= item.num_tokens || row >= kPrefillTileRows / k.heads_per_kv * k.heads_per_kv)
        continue;
      const int head = item.kv_head * k.heads_per_kv + row % k.heads_per_kv;
      uint32_t* to = reinterpret_cast<uint32_t*>(
          k.a.out +
          (static_cast<int64_t>(item.first_token + token) * k.a.num_q_heads + head) * kDim);
#pragma unroll
      for (int n = 0; n < kDim / 8; ++n) {
        to[4 * n + lane % 4] =
            ptx::PackBf16(sums[n][2 * r] / total[r], sums[n][2 * r + 1] / total[r]);
      }
    }
  }
};

template <class T, int kDim>
__global__ void __launch_bounds__(32 * kWarps) PrefillSimpleKernel(const KernelArgs k) {
  LaunchDependents();
  WaitForPriorKernels();
  __shared__ Block<kDim> block;
  const PrefillItem item = k.a.items[blockIdx.x];
  const int end = item.num_keys + item.num_tokens - 1;
  const int first_row = blockIdx.y * kRows + threadIdx.x / 32 * 16;
  Warp<kDim> warp;
  warp.lane = threadIdx.x % 32;
  warp.scale_log2 = k.a.scale * kLog2E;
  warp.LoadQueries(k, item, first_row);
  for (int key = 0; key < end; key += kBlockKeys) {
    __syncthreads();
    CopyBlock<T, kDim>(k.a, item, 0, key, end, block);
    __syncthreads();
    warp.MultiplyKeys(block);
    warp.Softmax(key);
    __syncthreads();
    CopyBlock<T, kDim>(k.a, item, 1, key, end, block);
    __syncthreads();
    warp.MultiplyValues(block);
  }
  warp.Write(k, item, first_row);
}

}  // namespace

void RunPrefillSimple(const PrefillArgs& args, cudaStream_t stream) {
  if (args.num_items == 0) return;
  const KernelArgs k{args, args.num_q_heads / args.num_kv_heads};
  const dim3 grid(args.num_items, kPrefillTileRows / kRows);
  const bool fp8 = args.kv.dtype == DType::kF8E4M3;
  const auto launch = [&](auto kernel) {
    LaunchChained(kernel, grid, dim3(32 * kWarps), stream, k);
  };
  if (args.kv.head_dim == 64) {
    return fp8 ? launch(PrefillSimpleKernel<__nv_fp8_e4m3, 64>)
               : launch(PrefillSimpleKernel<__nv_bfloat16, 64>);
  }
  fp8 ? launch(PrefillSimpleKernel<__nv_fp8_e4m3, 128>)
      : launch(PrefillSimpleKernel<__nv_bfloat16, 128>);
}

}  // namespace tangram::ops::cuda
