#pragma once

#include <optional>

#include "base/result.h"
#include "ops/backend.h"
#include "paging/compression_config.h"

namespace tangram {

// How the scorer's method is called in ops, if it is dynamic.
std::optional<ops::ScoreMethod> ScoreMethodOf(Scorer scorer);

// A dynamic scorer: what it tells the backend of a layer's appended tokens and of boundaries.
class DynamicScorer {
 public:
  // `config.scorer` is dynamic. `shape` says for how many slots and layers it remembers queries.
  // kOutOfMemory if that does not fit.
  static Result<DynamicScorer> Create(ops::Backend& backend, const CompressionConfig& config,
                                      const ops::RopeView& rope, int num_q_heads,
                                      const ops::QueryStateShape& shape);

  // Takes up the queries of tokens that were just appended, if the scorer looks at any.
  void Observe(const ops::AppendParams& appended) const;
  // Scores the candidates at the boundaries.
  void Score(const ops::BoundaryRange& at, float* pool_scores) const;

 private:
  DynamicScorer() = default;

  ops::Backend* backend_ = nullptr;
  ops::ScoreMethod method_{};
  int window_ = 0, sinks_ = 0;
  ops::QueryScoring queries_;
  ops::RopeView rope_;
  ops::QueryStateShape shape_{};
  Buffer state_;
};

}  // namespace tangram
