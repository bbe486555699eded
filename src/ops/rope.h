#pragma once

namespace tangram::ops {

// How rotary pairs lie in a head: (i, i + d/2) in Hugging Face's weights, (2i, 2i + 1) in GGUF
// files of the Llama architecture.
enum class RopeStyle { kHalf, kInterleaved };

// The rotation of a head at a position (RoFormer, equation 34): pair i by the angle position *
// inv_freq[i], scaled.
struct RopeView {
  const float* inv_freq = nullptr;  // [d/2], scaling already applied
  float scale = 1;                  // multiplies cos and sin (yarn's attention factor)
  RopeStyle style = RopeStyle::kHalf;
};

}  // namespace tangram::ops
