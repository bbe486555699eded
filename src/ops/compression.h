#pragma once

#include <cstdint>

#include "ops/rope.h"
#include "ops/step.h"
#include "tensor/tensor.h"

namespace tangram::ops {

// Symbols as in backend.h; C tokens of a chunk, b the boundary that is crossed, w the window.

// Sequences of a round that stand at a boundary, in some layers.
struct BoundaryRange {
  const Step* step;
  int round;
  int first, count;  // of the round's boundaries
  int first_layer, num_layers;

  const KvView& kv() const { return step->kv; }
  const BoundarySpan& boundary(int i) const {
    const int at = step->input->rounds[static_cast<size_t>(round)].first_boundary + first + i;
    return step->input->boundaries[static_cast<size_t>(at)];
  }
};

// Moves what stays of each row to its front, in original order: the protected tokens, the best
// candidates, as many as the retention table says, and the window. Keys, values and scores move; on
// ties the later token stays. In place.
struct CompactParams {
  BoundaryRange at;
  int window, sinks;
  float* pool_scores;  // beside the pool: element v*B + i is token i of virtual page v
};

// Writes the scores of the chunk that ends at a boundary (scorers with a pass of their own).
struct AppendScoresParams {
  const Step* step;
  BoundarySpan boundary;
  int layer;
  TensorView scores;  // [C, Hkv] f32
  float* pool_scores;
};

// The gate of Fast KVzip (arXiv 2601.17668) of one layer, all f32: m dimensions, S base keys.
struct FastKvzipGate {
  TensorView q_weight, q_bias;  // [Hkv * g * m, D], [Hkv * g * m]
  TensorView k_weight;          // [Hkv * m, D]
  TensorView q_norm, k_norm;    // [m]
  TensorView base;              // [Hkv, 1, S, m]
  TensorView bias;              // [Hkv, 1, g]
};

// scores = mean over the g queries q of a KV head, k its key, both normed, of
// 1 / (1 + sum over S of exp(base.q / sqrt(m) - k.q / sqrt(m) - bias)).
struct FastKvzipParams {
  TensorView queries;  // [T, Hkv * g * m] f32
  TensorView keys;     // [T, Hkv * m] f32
  FastKvzipGate gate;
  TensorView scores;  // [T, Hkv] f32
};

// How candidates are scored at a boundary (dynamic scorers).
enum class ScoreMethod {
  // arXiv 2504.15364: minus the cosine of the key and the mean of the row's normed keys, the
  // protected
  // ones' included.
  kKeyDiff,
  kStreamingLlm,  // arXiv 2309.17453: the most recent stay
  // arXiv 2404.14469: the attention that the chunk's last queries pay a key, mean over them and the
  // query heads of its group, pooled over the neighbours in the row.
  kSnapKv,
  // arXiv 2401.06104: the attention that the chunk's last query pays a key, mean over all query
  // heads of the layer.
  kTova,
  // arXiv 2510.00636, as kvpress has it: exp(mu.k / sqrt(d) + k'Sigma k / 2d), normed over the
  // candidates and the window, mean over the query heads of the group, times the value's norm. mu
  // and Sigma are those of the chunk's queries before rotation, the sinks' left out, rotated to the
  // mean of the positions to come.
  kExpectedAttention,
};

constexpr bool LooksAtQueries(ScoreMethod method) {
  return method == ScoreMethod::kSnapKv || method == ScoreMethod::kTova ||
         method == ScoreMethod::kExpectedAttention;
}

// How the methods that look at queries do it.
struct QueryScoring {
  int num_q_heads = 0;
  int chunk = 0;  // C
  int sinks = 0;  // s
  // kSnapKv, kTova:
  int query_window = 1;  // last queries of a chunk that are looked at, at most C; kTova: 1
  int pool_kernel = 1;   // kSnapKv: neighbours and the key itself, odd; kTova: 1
  // kSnapKv: the mean of neighbours before the window (kvpress) instead of the largest of the
  // row.
  bool pool_mean = false;
  // kExpectedAttention:
  bool use_covariance = true;
  bool use_value_norm = true;
  int future_positions = 512;
  float epsilon = 0.01f;  // added to the attention before the value's norm is taken to it
};

// What a backend keeps of queries until their chunk's boundary, for each of `num_slots` slots.
struct QueryStateShape {
  int num_slots, num_layers, num_kv_heads, head_dim;
};

// Takes up what the queries of tokens that were just appended say, token by token in their order,
// so that slices change no bit. The first token of a chunk that a method looks at overwrites what
// the slot's chunk before it left. Attention is over the row as it stands: what was kept, and the
// chunk up to the token. Sequences that are never compressed are left out.
struct ObserveQueriesParams {
  LayerRound at;
  ScoreMethod method;
  QueryScoring queries;
  int window;
  TensorView qkv;  // [T, (Hq + 2*Hkv) * d]: queries rotated; keys already appended
  RopeView rope;
  void* state;  // of QueryStateBytes
  QueryStateShape shape;
};

// Writes the scores of the candidates of each row, from their keys as stored. Statistics are over
// the whole chunk, whatever slices it came in: over the row for kKeyDiff, else over the candidates
// and the window, and protected tokens are not read.
struct ScoreParams {
  BoundaryRange at;
  ScoreMethod method;
  int window, sinks;
  float* pool_scores;
  // Of the methods that look at queries:
  QueryScoring queries = {};
  RopeView rope = {};
  const void* state = nullptr;  // as ObserveQueries left it, over the whole chunk
  QueryStateShape shape = {};
};

// The queries of a step of one sequence and one round, whose attention to the keys of a layer is
// measured. Keys and values are appended.
struct StepQueries {
  LayerRound at;
  TensorView qkv;  // [T, (Hq + 2*Hkv) * d]: queries rotated
  int num_q_heads;
  float scale;
};

// The largest attention that each of some tokens gets from any query of the step: the label of
// KVzip (arXiv 2505.23416, equation 2) when the step repeats those tokens.
struct MaxAttentionParams {
  StepQueries step;
  int count;   // the tokens: the last `count` of each row before the step's own
  float* out;  // [count, Hkv]
};

// The attention that each token of a row gets from the step's queries, summed over them and over
// the query heads of its KV head. A query's last `window` keys, of which its own is the last, are
// left out: what is close is kept anyway.
struct SumAttentionParams {
  StepQueries step;
  int window;
  float* out;  // [history + T, Hkv], added to
};

}  // namespace tangram::ops
