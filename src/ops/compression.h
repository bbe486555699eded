#pragma once

#include <cstdint>
#include <span>

#include "ops/kv_view.h"

namespace tangram::ops {

// Symbols as in backend.h; C tokens of a chunk, b the boundary that is crossed, w the window.

// A sequence that has b tokens and is compressed at b. All arrays are [G].
struct BoundarySpan {
  int slot;
  int boundary;  // b
  const int32_t*
      locked;  // kept for ever: the candidates are tokens [locked, length - w) of the row
  const int32_t* length;  // before: retained(row, b - C) + C
  const int32_t* kept;    // after: retained(row, b) >= locked + w
};

// Moves what stays of each row of a layer to its front, in original order: the locked tokens, the
// (kept - locked - w) best-scored candidates, the window. Keys, values and scores move; on ties the
// later token stays. In place.
struct CompactParams {
  int num_kv_heads;
  int window;
  KvPoolView pool;
  float* pool_scores;
  PageTableView pages;
  LayerHeadMap heads;
  std::span<const BoundarySpan> sequences;
};

// Writes the scores of tokens as they are appended (static scorers).
struct AppendScoresParams {
  TensorView scores;  // [T, Hkv] f32
  KvPoolView pool;
  float* pool_scores;  // beside the pool: element v*B + i is token i of virtual page v
  PageTableView pages;
  LayerHeadMap heads;
  std::span<const SequenceSpan> sequences;
};

// How candidates are scored at a boundary (dynamic scorers).
enum class ScoreMethod {
  kKeyDiff,       // arXiv 2504.15364: minus the cosine of the key and the mean of the normed keys
  kStreamingLlm,  // arXiv 2309.17453: the most recent stay
};

// Writes the scores of the candidates of each row of a layer, from their keys as stored. Statistics
// are over the candidates and the window, so over the whole chunk, whatever slices it came in;
// locked tokens are not read.
struct ScoreParams {
  ScoreMethod method;
  int num_kv_heads;
  int window;
  KvPoolView pool;
  float* pool_scores;
  PageTableView pages;
  LayerHeadMap heads;
  std::span<const BoundarySpan> sequences;
};

// The largest attention that each of some tokens of a sequence gets from any query of the step: the
// label of KVzip (arXiv 2505.23416, equation 2) when the step repeats those tokens.
struct MaxAttentionParams {
  TensorView qkv;  // [T, (Hq + 2*Hkv) * d]: queries rotated; keys and values already appended
  int num_q_heads;
  int num_kv_heads;
  float scale;
  KvPoolView pool;
  PageTableView pages;
  LayerHeadMap heads;
  SequenceSpan sequence;  // the queries
  int first;              // the tokens: [first, first + count) of the row, of every head
  int count;
  float* out;  // [count, Hkv]
};

}  // namespace tangram::ops
