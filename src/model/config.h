#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"
#include "model/generation_defaults.h"
#include "ops/backend.h"

namespace tangram {

enum class Architecture { kLlama, kQwen2, kQwen3 };

enum class RopeScaling { kNone, kLinear, kDynamic, kYarn, kLlama3 };

struct RopeConfig {
  double theta = 10000.0;
  RopeScaling scaling = RopeScaling::kNone;
  double factor = 1.0;
  int original_max_position = 0;                         // before scaling
  double low_freq_factor = 1.0, high_freq_factor = 4.0;  // llama3
  double beta_fast = 32.0, beta_slow = 1.0;              // yarn
  double attention_factor = 1.0;                         // yarn: multiplies cos and sin
};

// The attention factor that YaRN suggests for a scaling factor (arXiv 2309.00071, eq. 22).
double YarnAttentionFactor(double factor, double mscale = 1.0);

// What a decoder-only model is, whatever file said so.
struct ModelConfig {
  Architecture architecture = Architecture::kLlama;
  std::string model_type;
  int num_layers = 0;           // L
  int hidden_size = 0;          // D
  int intermediate_size = 0;    // F
  int num_attention_heads = 0;  // Hq
  int num_key_value_heads = 0;  // Hkv
  int head_dim = 0;             // d
  int vocab_size = 0;
  int max_position_embeddings = 0;  // the longest context, rope scaling applied
  float rms_norm_eps = 1e-6f;
  bool tie_word_embeddings = false;
  bool attention_bias = false;  // on Q, K, V (Qwen2)
  bool qk_norm = false;         // Qwen3
  RopeConfig rope;
  ops::RopeStyle rope_style = ops::RopeStyle::kHalf;
  std::vector<int32_t> eos_token_ids;  // of config and generation_config together
  int32_t bos_token_id = -1;
  GenerationDefaults generation;

  int q_per_kv() const { return num_attention_heads / num_key_value_heads; }
};

class GgufFile;

// The config of a Hugging Face folder: config.json, and generation_config.json if it is there.
// kLoad if config.json cannot be read; kUnsupported, naming the field, for what is missing,
// malformed or would be computed wrongly.
Result<ModelConfig> ReadHfConfig(const std::string& folder);
// The config of a model in either form, without its weights: a folder needs its config.json alone.
Result<ModelConfig> ReadModelConfig(const std::string& path);
// The config in a GGUF file's metadata; `name` is for messages.
Result<ModelConfig> ReadGgufConfig(const GgufFile& file, const std::string& name);

// Sizes that fit each other, a rotary dimension that is even; and the longest context with rope
// scaling applied.
Status FinishConfig(ModelConfig& config, const std::string& name);

}  // namespace tangram
