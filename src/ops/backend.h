#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "ops/compression.h"
#include "ops/rope.h"
#include "ops/sampling.h"
#include "ops/step.h"
#include "tensor/tensor.h"

namespace tangram::ops {

// The operations of a forward step: one parameter struct and one call for each. Activations are
// f32 on the CPU and bf16 on CUDA; shapes are in comments, row-major. Symbols: T tokens of the
// step, S sequences of the step, D model width, Hq query heads, Hkv KV heads, g = Hq/Hkv, d
// head_dim, B tokens of a page, Hp columns of a page, L layers, G = L*Hkv/Hp head groups.

struct EmbeddingParams {
  const Step* step;
  TensorView table;  // [V, D], any stored type, as Upload gave it
  TensorView out;    // [T, D]
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
// place. Scores of static scorers are put beside the keys.
struct AppendParams {
  LayerRound at;
  TensorView qkv;  // [T, (Hq + 2*Hkv) * d]: queries, keys, values
  int num_q_heads;
  TensorView q_norm, k_norm;  // [d] f32, or empty
  float epsilon;
  RopeView rope;
  TensorView new_scores = {};    // [T, Hkv] f32, or empty
  float* pool_scores = nullptr;  // beside the pool: element v*B + i is token i of virtual page v
};

// Causal attention of each token over its row: history, then the step's tokens up to itself. Reads
// K and V from the pages, so as rounded to the pool's type, in key blocks aligned to the row's
// start: on the CPU the same to the bit however the tokens are cut into steps.
struct AttentionParams {
  LayerRound at;
  TensorView qkv;  // [T, (Hq + 2*Hkv) * d]: queries rotated; the rest is not read
  TensorView out;  // [T, Hq * d]
  int num_q_heads;
  float scale;  // of q.k, 1/sqrt(d)
};

// out[i] = in[token of the step's i-th wanted logits].
struct GatherRowsParams {
  const Step* step;
  TensorView in;   // [T, D]
  TensorView out;  // [num_logit_rows, D]
};

// What a backend can run; checked at start, so that no op finds out.
struct Limits {
  std::vector<int> head_dims;    // empty: any
  std::vector<int> page_sizes;   // empty: any
  std::vector<DType> kv_dtypes;  // the first is the default
  int max_chunk = 1 << 30;       // longest compression chunk
  bool fastkvzip = true;         // whether that scorer is there
  int vocabulary_multiple = 1;   // divides the vocabulary
  // Of a step, where options do not say.
  int max_num_tokens = 512, max_num_seqs = 64;
};

// Bytes.
struct BackendMemory {
  int64_t available = 0;  // that Allocate may still take
  int64_t total = 0;      // of the device; 0: the memory is shared with all other programs
};

// A point in the order of a backend's calls.
using Ticket = uint64_t;

// Where tensors live and the steps run. Calls are ordered: each sees what those before it wrote.
// Up to steps_in_flight() steps may be queued behind each other before the first one's tokens are
// waited for; nothing but tokens and what Read asks for comes back.
class Backend {
 public:
  virtual ~Backend() = default;
  virtual DType activation_dtype() const = 0;
  // Whether K blocks of pages lie as [d, B], so that keys fill vector lanes, instead of [B, d].
  virtual bool transposed_keys() const { return false; }
  virtual Limits limits() const = 0;
  virtual int steps_in_flight() const { return 1; }
  virtual BackendMemory memory() const = 0;

  // Zeroed memory of this backend; `data()` is null if there is not enough.
  virtual Buffer Allocate(size_t bytes) = 0;
  // Weights in host memory, as this backend's ops read them: the rows of matrices of one type, one
  // below the other, or one vector. The same view, or a copy that the backend owns (on the device;
  // for the CPU, matrices with their rows interleaved for its vector lanes). The caller keeps the
  // stored memory alive as long as the result. A matrix is used whole: no views of its rows. Empty
  // if there is not enough memory.
  virtual TensorView UploadRows(std::span<const TensorView> parts) = 0;
  TensorView Upload(const TensorView& stored) { return UploadRows({&stored, 1}); }
  // Between host memory and Allocate's. Write has copied `from` when it returns; Read waits for all
  // calls before it.
  virtual void Write(void* to, const void* from, size_t bytes) = 0;
  virtual void Read(void* to, const void* from, size_t bytes) = 0;

  // Numbers of sequences whose decodes are recorded (Run), ascending; empty: none.
  virtual std::vector<int> recorded_sizes() const { return {}; }
  // Takes up a step: writes page ids into the table, copies pages (of the pool, and of the scores
  // beside it: 4 bytes for each token of a virtual page, or null). The result is valid until as
  // many more calls as there are steps in flight.
  virtual const Step& Begin(const StepInput& input, const KvView& kv, float* pool_scores) = 0;
  // Runs the ops that `forward` calls for the step; a backend may record them once and replay them
  // for steps of the same shape.
  virtual void Run(const Step& step, const std::function<void()>& forward) = 0;
  virtual void Embedding(const EmbeddingParams&) = 0;
  virtual void RmsNorm(const RmsNormParams&) = 0;
  virtual void MatMul(const MatMulParams&) = 0;
  virtual void SiluMul(const SiluMulParams&) = 0;
  virtual void Append(const AppendParams&) = 0;
  virtual void Attention(const AttentionParams&) = 0;
  virtual void GatherRows(const GatherRowsParams&) = 0;
  virtual void FastKvzip(const FastKvzipParams&) = 0;
  virtual void AppendScores(const AppendScoresParams&) = 0;
  // 0 where the method looks at no query.
  virtual size_t QueryStateBytes(ScoreMethod method, const QueryScoring& queries, int window,
                                 const QueryStateShape& shape) const = 0;
  virtual void ObserveQueries(const ObserveQueriesParams&) = 0;
  virtual void Score(const ScoreParams&) = 0;
  virtual void Compact(const CompactParams&) = 0;
  virtual void MaxAttention(const MaxAttentionParams&) = 0;
  virtual void SumAttention(const SumAttentionParams&) = 0;

  // Draws a token for each row of `input` from `logits` ([rows, V] f32, which may be overwritten).
  // Later steps find them under kLastDrawn.
  virtual Ticket Sample(const TensorView& logits, const SamplingInput& input) = 0;
  // What Sample drew, once it is there; valid until as many more calls of Sample as there are steps
  // in flight.
  virtual const SamplingOutput& Wait(Ticket ticket) = 0;
};

// "cpu": Highway kernels on `num_threads` threads (0: one for each core this process may use).
// "reference": the naive version of every op, the oracle of all others.
std::unique_ptr<Backend> CreateCpuBackend(int num_threads);
std::unique_ptr<Backend> CreateReferenceBackend();

}  // namespace tangram::ops
