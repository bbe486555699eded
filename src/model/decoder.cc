#include "model/decoder.h"

#include <cmath>

#include "base/check.h"

namespace tangram {

Result<std::unique_ptr<Model>> Decoder::Create(ModelConfig config, DecoderWeights weights,
                                               const LoadOptions& options, ops::Backend& backend) {
  std::unique_ptr<Decoder> decoder(new Decoder(std::move(config), std::move(weights), backend));
  TANGRAM_RETURN_IF_ERROR(decoder->AllocateActivations(options));
  return decoder;
}

Status Decoder::AllocateActivations(const LoadOptions& options) {
  max_tokens_ = options.max_num_tokens;
  max_logit_rows_ = options.max_logit_rows > 0 ? options.max_logit_rows : max_tokens_;
  const int64_t d = config_.head_dim, width = config_.hidden_size, f = config_.intermediate_size;
  const int64_t q_width = config_.num_attention_heads * d;
  const int64_t qkv_width = q_width + config_.num_key_value_heads * d * 2;
  const DType type = backend_.activation_dtype();
  const auto allocate = [&](Buffer& buffer, DType dtype, int64_t rows, int64_t columns) {
    buffer = backend_.Allocate(BytesFor(dtype, rows * columns));
    return buffer.data() != nullptr;
  };
  const bool fits =
      allocate(residual_, type, max_tokens_, width) && allocate(x_, type, max_tokens_, width) &&
      allocate(normed_, type, max_tokens_, width) && allocate(qkv_, type, max_tokens_, qkv_width) &&
      allocate(attended_, type, max_tokens_, q_width) &&
      allocate(gate_up_, type, max_tokens_, 2 * f) && allocate(activated_, type, max_tokens_, f) &&
      allocate(logits_, DType::kF32, max_logit_rows_, config_.vocab_size);
  if (fits) return {};
  return MakeError(ErrorKind::kOutOfMemory,
                   fmt::format("no memory for steps of {} tokens; choose a smaller "
                               "--max-num-batched-tokens",
                               max_tokens_),
                   "max_num_batched_tokens");
}

TensorView Decoder::Rows(const Buffer& buffer, int64_t rows, int64_t width) const {
  return buffer.View(backend_.activation_dtype(), {rows, width});
}

void Decoder::Norm(TensorView x, TensorView residual, TensorView weight, TensorView out) {
  backend_.RmsNorm({x, residual, weight, out, config_.rms_norm_eps});
}

void Decoder::Multiply(const Linear& linear, TensorView x, TensorView out) {
  const auto element = BytesFor(out.dtype, 1);
  for (const Linear::Part& part : linear.parts) {
    TensorView columns = out;
    columns.data = out.as<std::byte>() + part.first * element;
    columns.shape = {out.shape[0], part.weight.shape[0]};
    backend_.MatMul({x, part.weight, part.bias, columns, linear.out_features});
  }
}

TensorView Decoder::Forward(const ForwardInput& input) {
  const auto num_tokens = static_cast<int64_t>(input.tokens.size());
  const auto num_rows = static_cast<int64_t>(input.logit_rows.size());
  TANGRAM_CHECK(num_tokens > 0 && num_tokens <= max_tokens_, "{} of {}", num_tokens, max_tokens_);
  TANGRAM_CHECK(num_rows <= max_logit_rows_, "{} of {}", num_rows, max_logit_rows_);
  const int64_t width = config_.hidden_size;
  const int64_t q_width = int64_t{config_.num_attention_heads} * config_.head_dim;
  TensorView residual = Rows(residual_, num_tokens, width);
  TensorView x = Rows(x_, num_tokens, width);
  TensorView attended = Rows(attended_, num_tokens, q_width);

  backend_.Embedding({input.tokens.data(), weights_.embedding, residual});
  for (int i = 0; i < config_.num_layers; ++i) {
    const LayerWeights& layer = weights_.layers[i];
    Attention(layer, i, input, i == 0 ? TensorView{} : x);
    if (i + 1 == config_.num_layers) {
      // Behind the last attention only the tokens whose logits are wanted matter.
      if (num_rows == 0) return logits_.View(DType::kF32, {0, config_.vocab_size});
      const TensorView wanted = Rows(qkv_, num_rows, q_width);
      backend_.GatherRows({attended, input.logit_rows, wanted});
      attended = wanted;
      x = Rows(x_, num_rows, width);
      backend_.GatherRows({residual, input.logit_rows, x});
      residual = x;
      x = Rows(residual_, num_rows, width);
    }
    Multiply(layer.o, attended, x);
    FeedForward(layer, residual, x);
  }
  const TensorView normed = Rows(normed_, num_rows, width);
  Norm(x, residual, weights_.final_norm, normed);
  const TensorView logits = logits_.View(DType::kF32, {num_rows, config_.vocab_size});
  backend_.MatMul({normed, weights_.lm_head, {}, logits});
  return logits;
}

// residual += x; attended_ = attention(norm(residual)).
void Decoder::Attention(const LayerWeights& layer, int index, const ForwardInput& input,
                        TensorView x) {
  const auto num_tokens = static_cast<int64_t>(input.tokens.size());
  const int q_heads = config_.num_attention_heads, kv_heads = config_.num_key_value_heads;
  const int d = config_.head_dim;
  const TensorView normed = Rows(normed_, num_tokens, config_.hidden_size);
  const TensorView qkv = Rows(qkv_, num_tokens, int64_t{q_heads + 2 * kv_heads} * d);
  Norm(x, Rows(residual_, num_tokens, config_.hidden_size), layer.attn_norm, normed);
  Multiply(layer.qkv, normed, qkv);
  if (input.hook != nullptr) input.hook->OnInput(index, normed);
  for (const ForwardRound& round : input.rounds) AttendRound(layer, index, input, round);
}

// Compresses, appends and attends: what the rounds of a step do one after another.
void Decoder::AttendRound(const LayerWeights& layer, int index, const ForwardInput& input,
                          const ForwardRound& round) {
  const auto num_tokens = static_cast<int64_t>(input.tokens.size());
  const int q_heads = config_.num_attention_heads, kv_heads = config_.num_key_value_heads;
  const int d = config_.head_dim;
  const TensorView qkv = Rows(qkv_, num_tokens, int64_t{q_heads + 2 * kv_heads} * d);
  const ops::KvPoolView pool = input.kv->pool();
  const ops::LayerHeadMap heads = input.kv->heads(index);
  const ops::AppendParams append{.qkv = qkv,
                                 .num_q_heads = q_heads,
                                 .num_kv_heads = kv_heads,
                                 .q_norm = layer.q_norm,
                                 .k_norm = layer.k_norm,
                                 .epsilon = config_.rms_norm_eps,
                                 .positions = input.positions.data(),
                                 .inv_freq = weights_.inv_freq.as<float>(),
                                 .rope_scale = weights_.rope_scale,
                                 .rope_style = config_.rope_style,
                                 .pool = pool,
                                 .pages = input.pages,
                                 .heads = heads,
                                 .sequences = round.sequences};
  if (input.hook != nullptr) input.hook->BeforeAppend(index, append, round.boundaries);
  backend_.Append(append);
  if (input.hook != nullptr) input.hook->AfterAppend(index, append);
  backend_.Attention({.qkv = qkv,
                      .out = Rows(attended_, num_tokens, int64_t{q_heads} * d),
                      .num_q_heads = q_heads,
                      .num_kv_heads = kv_heads,
                      .scale = 1.0f / std::sqrt(static_cast<float>(d)),
                      .pool = pool,
                      .pages = input.pages,
                      .heads = heads,
                      .sequences = round.sequences});
}

// residual += x; x = down(silu(gate) * up) of norm(residual).
void Decoder::FeedForward(const LayerWeights& layer, TensorView residual, TensorView x) {
  const int64_t rows = x.shape[0], f = config_.intermediate_size;
  const TensorView normed = Rows(normed_, rows, config_.hidden_size);
  const TensorView gate_up = Rows(gate_up_, rows, 2 * f);
  const TensorView activated = Rows(activated_, rows, f);
  Norm(x, residual, layer.mlp_norm, normed);
  Multiply(layer.gate_up, normed, gate_up);
  backend_.SiluMul({gate_up, activated});
  Multiply(layer.down, activated, x);
}

}  // namespace tangram
