#pragma once

#include <optional>
#include <span>

#include "ops/backend.h"
#include "paging/compression_config.h"

namespace tangram {

// How the scorer's method is called in ops, if it is dynamic.
std::optional<ops::ScoreMethod> ScoreMethodOf(Scorer scorer);

// A dynamic scorer: what it tells the backend of a layer's appended tokens and boundaries.
class DynamicScorer {
 public:
  // `config.scorer` is dynamic.
  DynamicScorer(ops::Backend& backend, const CompressionConfig& config, int num_q_heads);

  // Floats that a slot has in each layer; 0 if the scorer looks at no query.
  int64_t StateFloats(int num_kv_heads, int head_dim) const;
  // Takes up the queries of tokens that were just appended, if the scorer looks at any. `state`:
  // [slots, StateFloats()] of the layer.
  void Observe(const ops::AppendParams& appended, std::span<const ops::SequenceSpan> sequences,
               float* state) const;
  // Scores the candidates at the boundary; `layer` has the layer's pages.
  void Score(const ops::AppendParams& layer, const ops::BoundarySpan& boundary, float* pool_scores,
             const float* state) const;

 private:
  ops::Backend* backend_;
  ops::ScoreMethod method_;
  int window_;
  ops::QueryScoring queries_;
};

}  // namespace tangram
