#pragma once

#include <memory>
#include <string>

#include "base/result.h"
#include "kvcache/layer_hook.h"
#include "model/config.h"
#include "model/decoder_weights.h"
#include "ops/backend.h"

namespace tangram {

struct LoadOptions {
  bool dummy_weights = false;  // seeded random weights of the config's shapes
  uint64_t seed = 0;
  int max_model_len = 0;     // 0: the config's; `dynamic` rope scaling depends on it
  int max_num_tokens = 512;  // T of the largest step: sizes the activations
  int max_logit_rows = 0;    // logits of the largest step; 0: max_num_tokens
};

// A decoder-only transformer whose weights are loaded: what Llama, Qwen2 and Qwen3 share. RMS norm,
// attention with rotary positions over grouped KV heads, SwiGLU, residuals around both (arXiv
// 2302.13971 section 2.2, 2305.13245). What differs is in the config: biases on QKV, norms on Q and
// K, tied embeddings, rope scaling. Not thread safe: one step at a time.
class Model {
 public:
  // kOutOfMemory if the activations of options.max_num_tokens do not fit.
  static Result<std::unique_ptr<Model>> Create(ModelConfig config, DecoderWeights weights,
                                               const LoadOptions& options, ops::Backend& backend);

  const ModelConfig& config() const { return config_; }
  size_t weight_bytes() const { return weights_.bytes; }
  // Tells the weights of two models apart.
  uint64_t fingerprint() const { return weights_.fingerprint; }
  ops::RopeView rope() const {
    return {weights_.inv_freq.as<float>(), weights_.rope_scale, config_.rope_style};
  }
  // Appends the step's K and V to their pages and gives the logits that it wants: f32
  // [num_logit_rows, vocab_size] in the backend's memory, valid until the next call. `hook` may be
  // null: then nothing is scored or compressed.
  TensorView Forward(const ops::Step& step, LayerHook* hook);

 private:
  Model(ModelConfig config, DecoderWeights weights, ops::Backend& backend)
      : config_(std::move(config)), weights_(std::move(weights)), backend_(backend) {}
  Status AllocateActivations(const LoadOptions& options);

  void RunLayers(const ops::Step& step, LayerHook* hook);
  void Attention(const LayerWeights& layer, int index, const ops::Step& step, LayerHook* hook,
                 TensorView x);
  void AttendRound(const LayerWeights& layer, const ops::LayerRound& at, LayerHook* hook);
  void FeedForward(const LayerWeights& layer, TensorView residual, TensorView x);
  void Multiply(const Linear& linear, TensorView x, TensorView out);
  void Norm(TensorView x, TensorView residual, TensorView weight, TensorView out);
  TensorView Rows(const Buffer& buffer, int64_t rows, int64_t width) const;

  ModelConfig config_;
  DecoderWeights weights_;
  ops::Backend& backend_;
  int max_tokens_ = 0, max_logit_rows_ = 0;
  // Activations of the largest step, in the backend's memory. T tokens.
  Buffer residual_;   // [T, D]
  Buffer x_;          // [T, D]: what is added to the residual next
  Buffer normed_;     // [T, D]
  Buffer qkv_;        // [T, (Hq + 2*Hkv) * d]
  Buffer attended_;   // [T, Hq * d]
  Buffer gate_up_;    // [T, 2F]
  Buffer activated_;  // [T, F]
  Buffer logits_;     // [rows, V] f32
};

// Loads a Hugging Face folder or a GGUF file. Errors name the file, the field and the remedy: kLoad
// for files that cannot be read, kUnsupported for corrupt ones and what would be computed wrongly.
Result<std::unique_ptr<Model>> LoadModel(const std::string& path, const LoadOptions& options,
                                         ops::Backend& backend);

}  // namespace tangram
