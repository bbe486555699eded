#pragma once

#include "ops/cuda/attention/prefill_producer_sm90.cuh"
#include "ops/cuda/wgmma.cuh"

// Prefill attention on Hopper. A block takes its items one after another, tiles of 128 packed rows
// (token, head): a producer warp brings the keys and values of virtual pages into three stages
// each, and two warpgroups of 64 rows each compute, taking turns on the tensor cores: while one
// does its softmax, the other multiplies. Inside a warpgroup the scores of block j are computed
// along with the values of block j-1 (as in FlashAttention-3, Shah et al. 2024).

namespace tangram::ops::cuda::prefill_sm90 {

// 64 rows of the tile.
template <int kDim>
struct Consumer {
  static constexpr int kScores = kBlockKeys / 2, kSums = kDim / 2;

  float scores[kScores];          // of a block; then the probabilities
  uint32_t weights[kScores / 2];  // probabilities as bf16, the operand of the second product
  float sums[kSums];              // of weighted values
  float top[2], total[2], rescale[2];
  int limit[2];  // keys that the thread's two rows see
  int group, lane;
  float scale_log2;

  __device__ __forceinline__ void MultiplyKeys(uint32_t queries, uint32_t keys) {
    wgmma::Pin(scores);
    wgmma::Fence();
#pragma unroll
    for (int k = 0; k < kDim / 16; ++k) {
      const uint32_t at = (k / 4) * kHalfBytes + (k % 4) * 32;
      wgmma::MmaShared(scores, wgmma::Descriptor(queries + group * 64 * 128 + at, 1024, 16),
                       wgmma::Descriptor(keys + at, 1024, 16), k > 0);
    }
    wgmma::Commit();
  }

  __device__ __forceinline__ void MultiplyValues(uint32_t values, bool first) {
    wgmma::Pin(sums);
    wgmma::Pin(weights);
    wgmma::Fence();
#pragma unroll
    for (int k = 0; k < kBlockKeys / 16; ++k) {
      const uint32_t a[4] = {weights[4 * k], weights[4 * k + 1], weights[4 * k + 2],
                             weights[4 * k + 3]};
      wgmma::MmaRegisters(sums, a,
                          wgmma::Descriptor(values + k * kPageTokens * 128, 1024, kHalfBytes),
                          k > 0 || !first);
    }
    wgmma::Commit();
  }

  // Turns the scores of `block` into exp2((score - top) * scale), raising `top` first. Score i of a
  // thread is row 8*((i/2)%2) + lane/4 of its warp, key 8*(i/4) + 2*(lane%4) + i%2.
  template <bool kMasked>
  __device__ __forceinline__ void Softmax(int block) {
    if constexpr (kMasked) {
      const int key = block * kBlockKeys + 2 * (lane % 4);
#pragma unroll
      for (int i = 0; i < kScores; ++i) {
        if (key + 8 * (i / 4) + i % 2 >= limit[i / 2 % 2]) scores[i] = -INFINITY;
      }
    }
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float high = scores[2 * r];
#pragma unroll
      for (int i = 0; i < kScores; i += 4) {
        high = fmaxf(high, fmaxf(scores[i + 2 * r], scores[i + 2 * r + 1]));
      }
      high = fmaxf(high, __shfl_xor_sync(~0u, high, 1));
      high = fmaxf(high, __shfl_xor_sync(~0u, high, 2));
      high = fmaxf(high, top[r]);
      rescale[r] = Exp2((top[r] - high) * scale_log2);
      top[r] = high;
      const float shift = high * scale_log2;
      float sum = 0;
#pragma unroll
      for (int i = 0; i < kScores; i += 4) {
        float& a = scores[i + 2 * r];
        float& b = scores[i + 2 * r + 1];
        a = Exp2(fmaf(a, scale_log2, -shift));
        b = Exp2(fmaf(b, scale_log2, -shift));
        sum += a + b;
      }
      total[r] = total[r] * rescale[r] + sum;
    }
  }

  __device__ __forceinline__ void RescaleSums() {
    if (!__any_sync(~0u, rescale[0] != 1.f || rescale[1] != 1.f)) return;
#pragma unroll
    for (int i = 0; i < kSums; ++i) sums[i] *= rescale[i / 2 % 2];
  }

  __device__ __forceinline__ void RoundWeights() {
#pragma unroll
    for (int i = 0; i < kScores / 2; ++i) {
      weights[i] = ptx::PackBf16(scores[2 * i], scores[2 * i + 1]);
    }
  }
};

// Zeroes the values behind the last key, in the row's last page: their weight is 0, but 0 * NaN is
// NaN.
template <int kDim>
__device__ void ClearStaleValues(uint8_t* values, int keys, int group) {
  if (keys % kPageTokens == 0) return;
  const int rows = kPageTokens - keys % kPageTokens, chunks = rows * 8 * Layout<kDim>::kHalves;
  for (int i = threadIdx.x % 128; i < chunks; i += 128) {
    const int row = keys % kBlockKeys + i / 8 % rows, half = i / (8 * rows);
    *reinterpret_cast<uint4*>(values + half * kHalfBytes + row * 128 + i % 8 * 16) = {0, 0, 0, 0};
  }
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
  ptx::NamedBarrier(kGroupBarrier + group, 128);
}

// Divides by the totals and writes the rows, by way of the queries' memory, where each warp has its
// 16 rows.
template <int kDim>
__device__ void WriteRows(Consumer<kDim>& c, const KernelArgs& args, const PrefillItem& item,
                          uint8_t* shared) {
  ptx::NamedBarrier(kGroupBarrier + c.group, 128);  // nobody reads queries any more
  const int first_row = threadIdx.x / 32 * 16;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    c.total[r] += __shfl_xor_sync(~0u, c.total[r], 1);
    c.total[r] += __shfl_xor_sync(~0u, c.total[r], 2);
    const float inverse = 1.f / c.total[r];
    const int row = first_row + 8 * r + c.lane / 4;
#pragma unroll
    for (int i = 0; i < kDim / 8; ++i) {
      uint8_t* at = shared + (i / 8) * kHalfBytes + row * 128 + ((i % 8 ^ row % 8) << 4);
      *reinterpret_cast<uint32_t*>(at + c.lane % 4 * 4) =
          ptx::PackBf16(c.sums[4 * i + 2 * r] * inverse, c.sums[4 * i + 2 * r + 1] * inverse);
    }
  }
  __syncwarp();
  constexpr int kChunks = kDim / 8;  // 16 bytes each
  const int g = args.heads_per_kv;
#pragma unroll
  for (int i = c.lane; i < 16 * kChunks; i += 32) {
    const int row = first_row + i / kChunks, chunk = i % kChunks;
    const int token = row / g, head = item.kv_head * g + row % g;
    if (token >= item.num_tokens) continue;
    const uint8_t* at =
        shared + (chunk / 8) * kHalfBytes + row * 128 + ((chunk % 8 ^ row % 8) << 4);
    const int64_t to =
        (static_cast<int64_t>(item.first_token + token) * args.num_q_heads + head) * kDim;
    *reinterpret_cast<uint4*>(args.out + to + chunk * 8) = *reinterpret_cast<const uint4*>(at);
  }
}

// Leaves a part's sums, and each row's top (times the scale) and total, for the merge.
template <int kDim>
__device__ void WritePart(Consumer<kDim>& c, const KernelArgs& args, const PrefillItem& item) {
  float* sums = args.scratch + static_cast<int64_t>(item.slot) * kPrefillTileRows * (kDim + 2);
  float* tops = sums + kPrefillTileRows * kDim;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    c.total[r] += __shfl_xor_sync(~0u, c.total[r], 1);
    c.total[r] += __shfl_xor_sync(~0u, c.total[r], 2);
    const int row = threadIdx.x / 32 * 16 + 8 * r + c.lane / 4;
#pragma unroll
    for (int i = 0; i < kDim / 8; ++i) {
      *reinterpret_cast<float2*>(sums + row * kDim + i * 8 + c.lane % 4 * 2) =
          make_float2(c.sums[4 * i + 2 * r], c.sums[4 * i + 2 * r + 1]);
    }
    if (c.lane % 4 == 0) {
      *reinterpret_cast<float2*>(tops + row * 2) = make_float2(c.top[r] * c.scale_log2, c.total[r]);
    }
  }
}

// One warpgroup's way through the block's items. Blocks of keys are counted over all of them: count
// c lies in stage c % kStages.
template <int kDim>
struct ConsumerLoop {
  static constexpr int kTileBytes = Layout<kDim>::kTileBytes;
  const KernelArgs& args;
  uint8_t* shared;
  Barriers& bars;
  Consumer<kDim> c;
  uint32_t queries, keys, values;
  int count = 0;

  __device__ __forceinline__ void WaitFull(uint64_t* full, int at) {
    ptx::BarrierWait(&full[at % kStages], at / kStages & 1);
  }
  __device__ __forceinline__ void Release(uint64_t* barrier) {
    if (c.lane == 0) ptx::BarrierArrive(barrier);
  }
  __device__ __forceinline__ void TakeTurn() { ptx::NamedBarrier(kTurnBarrier + c.group, 256); }
  // After the very last turn nobody waits for the first group's.
  __device__ __forceinline__ void GiveTurn(bool last) {
    if (last && c.group == 1) return;
    asm volatile("bar.arrive %0, 256;" ::"r"(kTurnBarrier + (c.group ^ 1)) : "memory");
  }

  __device__ __forceinline__ void Start(const PrefillItem& item) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int row = threadIdx.x / 32 * 16 + 8 * r + c.lane / 4;
      c.limit[r] = item.num_keys + min(row / args.heads_per_kv, item.num_tokens - 1);
      c.top[r] = -INFINITY, c.total[r] = 0;
    }
  }

  __device__ __forceinline__ void Softmax(int block, int first_masked) {
    if (block >= first_masked) {
      c.template Softmax<true>(block);
    } else {
      c.template Softmax<false>(block);
    }
  }

  __device__ __forceinline__ void Run(const PrefillItem& item, uint32_t q_phase, bool last_item) {
    Start(item);
    const int end = item.first_block + item.num_blocks, first_masked = item.num_keys / kBlockKeys;
    ptx::BarrierWait(&bars.q_full, q_phase);
    WaitFull(bars.k_full, count);
    TakeTurn();
    c.MultiplyKeys(queries, keys + count % kStages * kTileBytes);
    GiveTurn(last_item && item.num_blocks == 1);
    wgmma::Wait<0>();
    wgmma::Pin(c.scores);
    Release(&bars.k_empty[count % kStages]);
    Softmax(item.first_block, first_masked);
    c.RoundWeights();
    ++count;
    for (int block = item.first_block + 1; block < end; ++block, ++count) {
      WaitFull(bars.k_full, count);
      TakeTurn();
      c.MultiplyKeys(queries, keys + count % kStages * kTileBytes);
      WaitFull(bars.v_full, count - 1);
      c.MultiplyValues(values + (count - 1) % kStages * kTileBytes, block == item.first_block + 1);
      GiveTurn(last_item && block == end - 1);
      wgmma::Wait<1>();
      wgmma::Pin(c.scores);
      Release(&bars.k_empty[count % kStages]);
      Softmax(block, first_masked);
      wgmma::Wait<0>();
      wgmma::Pin(c.sums);
      wgmma::Pin(c.weights);
      Release(&bars.v_empty[(count - 1) % kStages]);
      c.RescaleSums();
      c.RoundWeights();
    }
    const int stage = (count - 1) % kStages, num_keys = item.num_keys + item.num_tokens - 1;
    WaitFull(bars.v_full, count - 1);
    if (num_keys <= end * kBlockKeys) {
      ClearStaleValues<kDim>(shared + kTileBytes * (1 + kStages + stage), num_keys, c.group);
    }
    c.MultiplyValues(values + stage * kTileBytes, item.num_blocks == 1);
    wgmma::Wait<0>();
    wgmma::Pin(c.sums);
    Release(&bars.v_empty[stage]);
    if (item.slot < 0) {
      WriteRows(c, args, item, shared);
      // The next queries come by the copy engine, over what ordinary accesses touched.
      asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    } else {
      WritePart(c, args, item);
    }
    __syncwarp();
    Release(&bars.q_empty);
  }
};

}  // namespace tangram::ops::cuda::prefill_sm90
