#pragma once

#include <span>
#include <vector>

#include "model/config.h"

namespace tangram {

struct RotaryTable {
  std::vector<float> inv_freq;  // [d/2]: radians per position, scaling applied
  float scale = 1.0f;           // multiplies cos and sin
};

// The rotation frequencies of a model. `served_length` matters for `dynamic` scaling only, which
// gets one base for it. `divisors` ([d/2], or empty) divide the frequencies: GGUF files of
// Llama 3.1 carry its scaling this way.
RotaryTable MakeRotaryTable(const RopeConfig& rope, int head_dim, int served_length,
                            std::span<const float> divisors);

}  // namespace tangram
