#pragma once

#include <span>
#include <string_view>

#include "model/config.h"

namespace tangram {

// What sets one architecture apart from the shared decoder (model/decoder.h). Each has a file of
// its own.
struct ArchitectureSpec {
  Architecture id;
  std::string_view hf_class;   // of config.json's `architectures`
  std::string_view gguf_name;  // of a GGUF file's general.architecture
  ops::RopeStyle gguf_rope_style;
  bool attention_bias;   // Q, K and V have biases
  bool qk_norm;          // queries and keys are normed per head before the rotation
  int default_head_dim;  // where config.json has none; 0: hidden_size / heads
  bool can_slide;        // knows use_sliding_window and max_window_layers
  // Flags of config.json that must be absent or false: the decoder does not compute what they ask
  // for.
  std::span<const std::string_view> refused_flags;
};

extern const ArchitectureSpec kLlama, kQwen2, kQwen3;

std::span<const ArchitectureSpec* const> Architectures();
// "LlamaForCausalLM, Qwen2ForCausalLM, ...", for messages.
std::string ServedClasses();

}  // namespace tangram
