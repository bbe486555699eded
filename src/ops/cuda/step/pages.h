#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "ops/cuda/kv_view.h"

namespace tangram::ops::cuda {

// Copies pages `from[i]` to `to[i]`, all columns. No page is both.
struct CudaCopyPagesParams {
  void* pool;           // of keys and values, or what lies beside it
  int64_t page_bytes;   // a multiple of 16
  const int32_t* from;  // [count]
  const int32_t* to;    // [count]
  int count;
};
void RunCopyPages(const CudaCopyPagesParams& params, cudaStream_t stream);

// Puts scores beside tokens that were appended before, where RunAppend did not: those of scorers
// that take a pass of their own.
struct CudaAppendScoresParams {
  const float* new_scores;  // [T, Hkv]
  int num_tokens;           // T
  int num_kv_heads;
  const int32_t* position;  // [T]; -1: unused
  const int32_t* slot;      // [T]
  const int32_t* table;     // [T] which retained table
  KvView kv;
  RetainedTables tables;
  int layer;
  float* scores;  // [virtual pages][B]
};
void RunAppendScores(const CudaAppendScoresParams& params, cudaStream_t stream);

}  // namespace tangram::ops::cuda
