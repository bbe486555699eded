#pragma once

#include "ops/cuda/compress/compress.h"
#include "ops/cuda/step/append.h"

// The scorers that look at the queries of a chunk. Until its boundary the last queries of the chunk
// are kept, rotated as attention uses them: what is made of them does not depend on how the chunk
// was cut into steps.

namespace tangram::ops::cuda {

// The last `count` queries of each slot's chunk. A query of all layers of Llama-3.1-8B is 256 KiB:
// a slot of SnapKV's window of 32 has 8 MiB, of ExpectedAttention's chunk of 512 128 MiB, of 8192 2
// GiB.
struct KeptQueries {
  __nv_bfloat16* data;  // [slots][L][count][Hq * d]
  int num_layers;       // L
  int num_q_heads;
  int count;  // at most C: SnapKV's query window, 1 for TOVA, C for ExpectedAttention
};

// Keeps the queries of a step's tokens, after RunAppend of the layer.
struct KeepQueriesParams {
  const __nv_bfloat16* qkv;  // [T, (Hq + 2*Hkv) * d]
  int num_tokens;            // T
  int num_kv_heads;
  int head_dim;
  const int32_t* position;  // [T]; -1: unused
  const int32_t* slot;      // [T]
  int chunk;                // C
  int layer;
  KeptQueries kept;
};
void RunKeepQueries(const KeepQueriesParams& params, cudaStream_t stream);

// SnapKV (arXiv 2404.14469): the attention that the kept queries pay a key, over the row as it
// stands, mean over them and the query heads of the group, pooled over the key's neighbours.
// TOVA (arXiv 2401.06104): one kept query, and the mean over all query heads of the layer.
enum class AttentionPool {
  kNone,
  kMax,   // of the row
  kMean,  // of the row up to its window, as if 0 beyond (kvpress)
};
struct AttentionScoreParams {
  CompressParams rows;  // with the scores to write
  KeptQueries queries;
  float scale;  // of q.k
  AttentionPool pool;
  int pool_kernel;       // odd
  bool mean_over_layer;  // TOVA
  int max_tokens;        // of a row
  void* scratch;         // AttentionScoreScratchBytes
};
size_t AttentionScoreScratchBytes(const AttentionScoreParams& params);

// A key's score depends on its row and the queries alone, to the bit. d: 64 or 128.
void RunScoreAttention(const AttentionScoreParams& params, cudaStream_t stream);

// ExpectedAttention (arXiv 2510.00636, as kvpress has it): exp(mu.k / sqrt(d) + k'Sigma k / 2d),
// normed over candidates and window, mean over the query heads of the group, plus epsilon, times
// the value's norm. mu and Sigma are those of the chunk's queries before rotation, the sinks' left
// out, rotated to the mean of the `future_positions` to come.
struct ExpectedAttentionParams {
  CompressParams rows;
  KeptQueries queries;    // count = C
  const float* inv_freq;  // [d/2]
  float rope_scale;
  bool rope_interleaved;
  bool use_covariance, use_value_norm;
  int future_positions;
  float epsilon;
  void* scratch;  // ExpectedAttentionScratchBytes
};
size_t ExpectedAttentionScratchBytes(const ExpectedAttentionParams& params);

// d: 64 or 128. Sums are f32; products are of f16: the queries before rotation, less the first of
// them, the keys as stored (which must lie within f16's range), and Sigma over a power of two.
void RunScoreExpectedAttention(const ExpectedAttentionParams& params, cudaStream_t stream);

// Fast KVzip's gate (arXiv 2601.17668), a static score: q = norm(Wq x + b), k = norm(Wk x), and the
// mean over the group of 1 / (1 + sum over sinks of exp((base.q - k.q) / sqrt(dim) - bias)).
struct FastKvzipParams {
  const float* projected;  // [T, Hkv * (g + 1) * dim]: Wq x + b [Hkv, g, dim], then Wk x [Hkv, dim]
  int num_tokens, num_kv_heads;
  int group;                     // g, at most 32
  int dim;                       // 16
  int num_sinks;                 // 16 in the published gates; at most 512
  const float *q_norm, *k_norm;  // [dim]
  const float* base;             // [Hkv, num_sinks, dim]
  const float* bias;             // [Hkv, g]
  float epsilon;                 // of the norms
  float* scores;                 // [T, Hkv]
};
void RunFastKvzip(const FastKvzipParams& params, cudaStream_t stream);

}  // namespace tangram::ops::cuda
