#pragma once

#include <vector>

#include "base/result.h"
#include "ops/backend.h"

namespace tangram {

// A map from the attention's input to the scores of its tokens: the linear one that calibration
// fits, score(head) = weight[layer] x + bias[layer], or a published one of Fast KVzip.
struct GateWeights {
  std::vector<TensorView> weight;             // L x [Hkv, D] f32
  std::vector<TensorView> bias;               // L x [Hkv] f32
  std::vector<ops::FastKvzipGate> fastkvzip;  // L; empty: linear
};

// Scores the tokens of a step by a gate.
class GateScorer {
 public:
  // For steps of up to max_tokens. kOutOfMemory if their scores do not fit.
  static Result<GateScorer> Create(ops::Backend& backend, GateWeights gate, int num_kv_heads,
                                   int max_tokens);

  // [T, Hkv] f32 of `input` [T, D], until the next call.
  TensorView Scores(int layer, const TensorView& input);

 private:
  GateScorer() = default;

  ops::Backend* backend_ = nullptr;
  GateWeights gate_;
  int num_kv_heads_ = 0;
  Buffer scores_;          // [T, Hkv] f32
  Buffer queries_, keys_;  // [T, Hkv * g * m] and [T, Hkv * m] f32, of Fast KVzip
};

}  // namespace tangram
