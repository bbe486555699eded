#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "ops/backend.h"

namespace tangram {

enum class Architecture { kLlama, kQwen2, kQwen3 };

enum class RopeScaling { kNone, kLinear, kDynamic, kYarn, kLlama3 };

struct RopeConfig {
  double theta = 10000.0;
  RopeScaling scaling = RopeScaling::kNone;
  double factor = 1.0;
  int original_max_position = 0;
  double low_freq_factor = 1.0, high_freq_factor = 4.0;          // llama3
  double beta_fast = 32.0, beta_slow = 1.0, attention_factor = 0.0;  // yarn; 0: from the factor
};

// Sampling defaults of generation_config.json; absent fields have no value.
struct GenerationDefaults {
  std::optional<float> temperature, top_p, min_p, repetition_penalty;
  std::optional<int> top_k, max_new_tokens;
};

// What a decoder-only model is, whatever file said so.
struct ModelConfig {
  Architecture architecture = Architecture::kLlama;
  std::string model_type;
  int num_layers = 0;             // L
  int hidden_size = 0;            // D
  int intermediate_size = 0;      // F
  int num_attention_heads = 0;    // Hq
  int num_key_value_heads = 0;    // Hkv
  int head_dim = 0;               // d
  int vocab_size = 0;
  int max_position_embeddings = 0;
  float rms_norm_eps = 1e-6f;
  bool tie_word_embeddings = false;
  bool attention_bias = false;    // on Q, K, V (Qwen2)
  bool qk_norm = false;           // Qwen3
  RopeConfig rope;
  ops::RopeStyle rope_style = ops::RopeStyle::kHalf;
  std::vector<int32_t> eos_token_ids;  // of config and generation_config together
  int32_t bos_token_id = -1;
  GenerationDefaults generation;

  int q_per_kv() const { return num_attention_heads / num_key_value_heads; }
};

}  // namespace tangram
