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

// Puts scores beside the tokens of the chunk that ends at a boundary: those of scorers that take a
// pass of their own.
struct AppendChunkScoresParams {
  const float* new_scores;  // [C, Hkv]
  int num_kv_heads;
  int slot, table;
  int boundary;  // a position
  KvView kv;
  RetainedTables tables;
  int layer;
  float* scores;  // [virtual pages][B]
};
void RunAppendChunkScores(const AppendChunkScoresParams& params, cudaStream_t stream);

}  // namespace tangram::ops::cuda
