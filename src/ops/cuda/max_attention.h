#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include <cstdint>

#include "ops/cuda/kv_view.h"

namespace tangram::ops::cuda {

// The largest attention that each of some tokens of a sequence gets from any query of the step: the
// label of KVzip (arXiv 2505.23416, equation 2) when the step repeats those tokens. Causal; the
// step's keys and values have been appended.
struct CudaMaxAttentionParams {
  const __nv_bfloat16* qkv;  // [T, (Hq + 2*Hkv) * d]: queries rotated; the rest is not read
  int num_tokens;            // T, of one sequence
  int num_q_heads;
  int num_kv_heads;
  float scale;  // of q.k
  KvView kv;
  int layer;
  int slot;
  const int32_t* row_history;  // [G] tokens of each row before the step's
  int count;                   // the tokens: the last `count` of each row before the step's
  float* out;                  // [count, Hkv]
  float* scratch;              // MaxAttentionScratchBytes
};
size_t MaxAttentionScratchBytes(const CudaMaxAttentionParams& params);

// d: 64, 128 or 256. The same bits whatever else the device does.
void RunMaxAttention(const CudaMaxAttentionParams& params, cudaStream_t stream);

}  // namespace tangram::ops::cuda
