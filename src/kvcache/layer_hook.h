#pragma once

#include <span>

#include "ops/backend.h"

namespace tangram {

// What a forward step offers, layer by layer, to whoever scores and compresses the KV cache
// (Compressor) or learns how to (calibration).
class LayerHook {
 public:
  virtual ~LayerHook() = default;
  // The attention's input of the whole step, [T, D], normed.
  virtual void OnInput(int layer, const TensorView& input) = 0;
  // Before the tokens of a round are appended as `next` says: `boundaries` are sequences that stand
  // at one.
  virtual void BeforeAppend(int layer, const ops::AppendParams& next,
                            std::span<const ops::BoundarySpan> boundaries) = 0;
  // After it: the QKV of `appended` holds the queries as attention uses them.
  virtual void AfterAppend(int layer, const ops::AppendParams& appended) = 0;
};

// The queries of a step of one sequence, once its tokens are appended.
ops::StepQueries StepQueriesOf(const ops::AppendParams& appended);

}  // namespace tangram
