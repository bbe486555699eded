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
  // Before the tokens of a round are appended: `sequences` stand at a boundary.
  virtual void BeforeAppend(int layer, ops::PageTableView pages,
                            std::span<const ops::BoundarySpan> sequences) = 0;
  // After it. `qkv` [T, (Hq + 2*Hkv) * d] holds the queries as attention uses them.
  virtual void AfterAppend(int layer, ops::PageTableView pages,
                           std::span<const ops::SequenceSpan> sequences, const TensorView& qkv) = 0;
};

}  // namespace tangram
