#pragma once

#include <cuda.h>

#include "ops/cuda/attention/prefill.h"

// Of prefill attention on Hopper (prefill_sm90.cuh): shared memory, barriers, arguments.

namespace tangram::ops::cuda::prefill_sm90 {

constexpr int kBlockKeys = kPrefillBlockKeys;
constexpr int kBlockPages = kBlockKeys / kPageTokens;
constexpr int kStages = 3;
constexpr int kHalfBytes = 128 * 128;  // 128 rows of 64 bf16, swizzled
constexpr int kConsumerGroups = 2;
constexpr int kThreads = 128 * (kConsumerGroups + 1);
// Named barriers: 0 is __syncthreads; the turns of the two groups; one inside each group.
constexpr int kTurnBarrier = 1;
constexpr int kGroupBarrier = 3;

template <int kDim>
struct Layout {
  static constexpr int kHalves = kDim / 64;
  static constexpr int kTileBytes = kHalves * kHalfBytes;
  static constexpr int kBytes = 1024 + kTileBytes * (1 + 2 * kStages);
};

struct KernelArgs {
  __nv_bfloat16* out;
  const PrefillItem* items;
  const int32_t* ranges;
  float* scratch;
  const int32_t* page_table;
  int num_q_heads;
  int heads_per_kv;  // g
  int group_size;    // Hp
  bool expanded;     // pages lie in order, Hp = 1
  int num_blocks;    // K and V blocks in the pool: 2 for each virtual page
  float scale_log2;  // scale * log2(e)
};

struct Barriers {
  uint64_t q_full, q_empty;
  uint64_t k_full[kStages], k_empty[kStages], v_full[kStages], v_empty[kStages];
};

__device__ __forceinline__ float Exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

}  // namespace tangram::ops::cuda::prefill_sm90
