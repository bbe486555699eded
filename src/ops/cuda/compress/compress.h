#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "ops/cuda/kv_view.h"

namespace tangram::ops::cuda {

// Compression at a boundary b = k*C of each sequence named (docs/design/architecture.md): a row of
// retained(b - C) + C tokens becomes one of retained(b). The first max(sinks, retained(b - C) -
// window) tokens are not looked at; the candidates are those behind them up to the last `window`,
// which stay.
struct CompressBatch {
  int size;                 // sequences
  const int32_t* slot;      // [size]
  const int32_t* boundary;  // [size] k >= 1
  const int32_t* table;     // [size] which retained table
};

struct CompressParams {
  CompressBatch batch;
  RetainedTables tables;
  KvView kv;
  float* scores;  // [virtual pages][B] a score of each token, beside the pool
  int num_kv_heads;
  int first_layer, num_layers;  // which layers
  int window, sinks;
};

// All of these may be captured. They read the batch, the tables and the page table ahead of the
// kernel before them: that must not write these.

// Keeps the best-scored candidates (of equal ones the later), in order, and moves keys, values and
// scores up in place. How many stay is in the tables: nothing returns to the host. NaN scores below
// everything. C <= MaxCompressChunk(window): who lets users choose C asks before the first request.
void RunSelectAndCompact(const CompressParams& params, cudaStream_t stream);

// The largest C, a multiple of kPageTokens, whose candidates the shared memory of one block of the
// current device holds, at 6.25 bytes each: 35,700 or so on an H100.
int MaxCompressChunk(int window);

// score(t) = -cos(k_t, mean over the row of k/|k|), keys as stored (KeyDiff, arXiv 2504.15364).
void RunScoreKeyDiff(const CompressParams& params, cudaStream_t stream);

// score(t) = t: the most recent stay (StreamingLLM, arXiv 2309.17453).
void RunScoreStreamingLlm(const CompressParams& params, cudaStream_t stream);

}  // namespace tangram::ops::cuda
