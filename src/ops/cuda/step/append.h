#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "ops/cuda/kv_view.h"

namespace tangram::ops::cuda {

// Norms queries and keys (where weights are given), rotates both, writes the queries back, and
// appends K and V, rounded to the pool's type, at the end of their rows. A token at position x goes
// to index length(row, x+1) - 1 of each row: the device needs no lengths, in prefill as in decode.
// ops/backend.h, AppendParams, has the formulas.
struct CudaAppendParams {
  __nv_bfloat16* qkv;  // [T, (Hq + 2*Hkv) * d]: queries, keys, values
  int num_tokens;      // T
  int num_q_heads;
  int num_kv_heads;
  const float* q_norm;  // [d] or null
  const float* k_norm;  // [d], null as q_norm is
  float epsilon;
  const int32_t* position;  // [T]; -1: unused
  const int32_t* slot;      // [T]
  const int32_t* table;     // [T] which retained table
  const float* inv_freq;    // [d/2]
  float rope_scale;         // multiplies cos and sin
  bool rope_interleaved;    // pairs (2i, 2i + 1), else (i, i + d/2)
  KvView kv;
  RetainedTables tables;
  int layer;
  // Static scorers (the gate's columns of the QKV product): put beside the token's key, or both
  // null.
  const float* new_scores;  // [T, Hkv]
  float* scores;            // [virtual pages][B]
  // What the host gives for the step (positions, slots, tables, page tables) was there before any
  // kernel that may still run was launched: it is read ahead, while the launch before still runs.
  bool early_start = false;
};

// d: 64 or 128.
void RunAppend(const CudaAppendParams& params, cudaStream_t stream);

}  // namespace tangram::ops::cuda
