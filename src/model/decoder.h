#pragma once

#include "model/decoder_weights.h"
#include "model/model.h"

namespace tangram {

// The decoder that Llama, Qwen2 and Qwen3 share: RMS norm, attention with rotary positions over
// grouped KV heads, SwiGLU, residuals around both (arXiv 2302.13971 section 2.2, 2305.13245). What
// differs is in the config: biases on QKV, norms on Q and K, tied embeddings, rope scaling.
class Decoder : public Model {
 public:
  // kOutOfMemory if the activations of options.max_num_tokens do not fit.
  static Result<std::unique_ptr<Model>> Create(ModelConfig config, DecoderWeights weights,
                                               const LoadOptions& options, ops::Backend& backend);

  const ModelConfig& config() const override { return config_; }
  size_t weight_bytes() const override { return weights_.bytes; }
  uint64_t fingerprint() const override { return weights_.fingerprint; }
  TensorView Forward(const ForwardInput& input) override;

 private:
  Decoder(ModelConfig config, DecoderWeights weights, ops::Backend& backend)
      : config_(std::move(config)), weights_(std::move(weights)), backend_(backend) {}
  Status AllocateActivations(const LoadOptions& options);

  void Attention(const LayerWeights& layer, int index, const ForwardInput& input, TensorView x);
  void AttendRound(const LayerWeights& layer, int index, const ForwardInput& input,
                   const ForwardRound& round);
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

}  // namespace tangram
