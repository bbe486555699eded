#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "ops/compression.h"
#include "ops/kv_view.h"
#include "ops/rope.h"
#include "tensor/tensor.h"

namespace tangram::ops {

// The operations of a forward step: one parameter struct and one call for each. Activations are
// f32 on the CPU and bf16 on CUDA; shapes are in comments, row-major. Symbols: T tokens of the
// step, S sequences of the step, D model width, Hq query heads, Hkv KV heads, g = Hq/Hkv, d
// head_dim, B tokens of a page, Hp columns of a page, L layers, G = L*Hkv/Hp rows of a sequence.

struct EmbeddingParams {
  const int32_t* tokens;  // [T]
  TensorView table;       // [V, D], any stored type, as Upload gave it
  TensorView out;         // [T, D]
};

// residual += x (if x is given); out = residual / rms(residual) * weight.
struct RmsNormParams {
  TensorView x;         // [T, D] or empty
  TensorView residual;  // [T, D], updated in place when x is given
  TensorView weight;    // [D] f32
  TensorView out;       // [T, D]
  float epsilon;
};

// out = x * weight^T + bias. The sum over K is the same to the bit for any T, and any row of x
// gives the same result whatever rows stand beside it.
struct MatMulParams {
  TensorView x;       // [T, K]
  TensorView weight;  // [N, K], any stored type, as Upload gave it
  TensorView bias;    // [N] f32, or empty
  TensorView out;     // [T, N]
  int64_t out_stride =
      0;  // elements from row to row of `out`, when it is columns of a wider tensor; 0: N
};

// out = silu(gate) * up, with gate and up side by side.
struct SiluMulParams {
  TensorView gate_up;  // [T, 2F]: gate, then up
  TensorView out;      // [T, F]
};

// Norms queries and keys (where weights are given: Qwen3), rotates them at their true positions,
// and appends K and V, rounded to the pool's type, to the virtual pages. Queries are changed in
// place.
struct AppendParams {
  TensorView qkv;  // [T, (Hq + 2*Hkv) * d]: queries, keys, values
  int num_q_heads;
  int num_kv_heads;
  TensorView q_norm, k_norm;  // [d] f32, or empty
  float epsilon;
  const int32_t* positions;  // [T]
  const float* inv_freq;     // [d/2], scaling already applied
  float rope_scale;          // multiplies cos and sin (yarn's attention factor); 1 otherwise
  RopeStyle rope_style;
  KvPoolView pool;
  PageTableView pages;
  LayerHeadMap heads;
  std::span<const SequenceSpan> sequences;  // [S]

  RopeView rope() const { return {inv_freq, rope_scale, rope_style}; }
};

// Causal attention of each token over its row: history, then the step's tokens up to itself. Reads
// K and V from the pages, so as rounded to the pool's type, in key blocks aligned to the row's
// start: the same to the bit however the tokens are cut into steps.
struct AttentionParams {
  TensorView qkv;  // [T, (Hq + 2*Hkv) * d]: queries rotated; the rest is not read
  TensorView out;  // [T, Hq * d]
  int num_q_heads;
  int num_kv_heads;
  float scale;  // of q.k, 1/sqrt(d)
  KvPoolView pool;
  PageTableView pages;
  LayerHeadMap heads;
  std::span<const SequenceSpan> sequences;  // [S]
};

// Copies the pages `from[i]` to `to[i]`, all columns.
struct CopyPagesParams {
  KvPoolView pool;
  std::span<const int32_t> from, to;
};

// out[i] = in[rows[i]].
struct GatherRowsParams {
  TensorView in;  // [T, D]
  std::span<const int32_t> rows;
  TensorView out;  // [rows, D]
};

// Where tensors live and the steps run. Calls are ordered; a result is ready for the host after
// Synchronize().
class Backend {
 public:
  virtual ~Backend() = default;
  virtual DType activation_dtype() const = 0;
  // Whether K blocks of pages lie as [d, B], so that keys fill vector lanes, instead of [B, d].
  virtual bool transposed_keys() const { return false; }
  // Zeroed memory of this backend; `data()` is null if there is not enough.
  virtual Buffer Allocate(size_t bytes) = 0;
  // A weight in host memory, as this backend's ops read it: the same view, or a copy that the
  // backend owns (on the device; for the CPU, matrices with their rows interleaved for its vector
  // lanes). The caller keeps `stored`'s memory alive as long as the result. A matrix is used whole:
  // no views of its rows. Empty if there is not enough memory.
  virtual TensorView Upload(const TensorView& stored) = 0;
  virtual void Embedding(const EmbeddingParams&) = 0;
  virtual void RmsNorm(const RmsNormParams&) = 0;
  virtual void MatMul(const MatMulParams&) = 0;
  virtual void SiluMul(const SiluMulParams&) = 0;
  virtual void Append(const AppendParams&) = 0;
  virtual void Attention(const AttentionParams&) = 0;
  virtual void FastKvzip(const FastKvzipParams&) = 0;
  virtual void AppendScores(const AppendScoresParams&) = 0;
  virtual void ObserveQueries(const ObserveQueriesParams&) = 0;
  virtual void Score(const ScoreParams&) = 0;
  virtual void Compact(const CompactParams&) = 0;
  virtual void MaxAttention(const MaxAttentionParams&) = 0;
  virtual void SumAttention(const SumAttentionParams&) = 0;
  virtual void CopyPages(const CopyPagesParams&) = 0;
  virtual void GatherRows(const GatherRowsParams&) = 0;
  virtual void Synchronize() = 0;
};

// "cpu": Highway kernels on `num_threads` threads (0: one for each core this process may use).
// "reference": the naive version of every op, the oracle of all others.
std::unique_ptr<Backend> CreateCpuBackend(int num_threads);
std::unique_ptr<Backend> CreateReferenceBackend();

}  // namespace tangram::ops
