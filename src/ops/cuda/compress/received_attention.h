#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include <cstdint>

#include "ops/cuda/kv_view.h"

namespace tangram::ops::cuda {

// The queries of a step of one sequence, whose attention to the keys of a layer is measured.
// Causal; the step's keys and values have been appended.
struct CudaStepQueries {
  const __nv_bfloat16* qkv;  // [T, (Hq + 2*Hkv) * d]: queries rotated; the rest is not read
  int num_tokens;            // T
  int num_q_heads;
  int num_kv_heads;
  float scale;  // of q.k
  KvView kv;    // d: 64 or 128
  int layer;
  int slot;
  const int32_t* row_history;  // [G] tokens of each row before the step's
  float* scratch;              // StepQueriesScratchBytes
};
size_t StepQueriesScratchBytes(const CudaStepQueries& step);

// The largest attention that each of some tokens gets from any query of the step: the label of
// KVzip (arXiv 2505.23416, equation 2) when the step repeats those tokens.
struct CudaMaxAttentionParams {
  CudaStepQueries step;
  int count;   // the tokens: the last `count` of each row before the step's
  float* out;  // [count, Hkv]
};

// The attention that each token of a row gets from the step's queries, summed over them and over
// the query heads of its KV head. A query's last `window` keys, of which its own is the last, are
// left out.
struct CudaSumAttentionParams {
  CudaStepQueries step;
  int window;
  int max_history;  // at least that of each row of the layer
  float* out;       // [max_history + T, Hkv], added to; what lies behind a row's end is left alone
};

// Both: the same bits whatever else the device does.
void RunMaxAttention(const CudaMaxAttentionParams& params, cudaStream_t stream);
void RunSumAttention(const CudaSumAttentionParams& params, cudaStream_t stream);

}  // namespace tangram::ops::cuda
