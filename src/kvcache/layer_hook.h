#pragma once

#include "ops/backend.h"

namespace tangram {

// What a forward step offers, layer by layer, to whoever scores and compresses the KV cache
// (Compressor) or learns how to (calibration).
class LayerHook {
 public:
  virtual ~LayerHook() = default;
  // Before the first layer. The sequences of round 0's boundaries stand at one, in all layers.
  virtual void BeforeStep(const ops::Step&) {}
  // The attention's input of the whole step, [T, D], normed.
  virtual void OnInput(int /*layer*/, const TensorView& /*input*/) {}
  // Before the tokens of a round are appended as `next` says, to which scores may be added.
  virtual void BeforeAppend(ops::AppendParams& /*next*/) {}
  // After it: the QKV of `appended` holds the queries as attention uses them.
  virtual void AfterAppend(const ops::AppendParams& /*appended*/) {}
};

// The queries of a step of one sequence and one round, once its tokens are appended.
ops::StepQueries StepQueriesOf(const ops::AppendParams& appended);

}  // namespace tangram
