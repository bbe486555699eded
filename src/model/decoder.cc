#include <cmath>

#include "base/check.h"
#include "model/model.h"

namespace tangram {

Result<std::unique_ptr<Model>> Model::Create(ModelConfig config, DecoderWeights weights,
                                             const LoadOptions& options, ops::Backend& backend) {
  std::unique_ptr<Model> made(new Model(std::move(config), std::move(weights), backend));
  TANGRAM_RETURN_IF_ERROR(made->AllocateActivations(options));
  return made;
}

Status Model::AllocateActivations(const LoadOptions& options) {
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

TensorView Model::Rows(const Buffer& buffer, int64_t rows, int64_t width) const {
  return buffer.View(backend_.activation_dtype(), {rows, width});
}

void Model::Norm(TensorView x, TensorView residual, TensorView weight, TensorView out) {
  backend_.RmsNorm({x, residual, weight, out, config_.rms_norm_eps});
}

void Model::Multiply(const Linear& linear, TensorView x, TensorView out) {
  const auto element = BytesFor(out.dtype, 1);
  for (const Linear::Part& part : linear.parts) {
    TensorView columns = out;
    columns.data = out.as<std::byte>() + part.first * element;
    columns.shape = {out.shape[0], part.weight.shape[0]};
    backend_.MatMul({x, part.weight, part.bias, columns, linear.out_features});
  }
}

TensorView Model::Forward(const ops::Step& step, LayerHook* hook) {
  TANGRAM_CHECK(step.num_tokens > 0 && step.num_tokens <= max_tokens_, "{} of {}", step.num_tokens,
                max_tokens_);
  TANGRAM_CHECK(step.num_logit_rows <= max_logit_rows_, "{} of {}", step.num_logit_rows,
                max_logit_rows_);
  if (hook != nullptr) hook->BeforeStep(step);
  backend_.Run(step, [&] { RunLayers(step, hook); });
  return logits_.View(DType::kF32, {step.num_logit_rows, config_.vocab_size});
}

void Model::RunLayers(const ops::Step& step, LayerHook* hook) {
  const int64_t num_tokens = step.num_tokens, num_rows = step.num_logit_rows;
  const int64_t width = config_.hidden_size;
  const int64_t q_width = int64_t{config_.num_attention_heads} * config_.head_dim;
  TensorView residual = Rows(residual_, num_tokens, width);
  TensorView x = Rows(x_, num_tokens, width);
  TensorView attended = Rows(attended_, num_tokens, q_width);

  backend_.Embedding({&step, weights_.embedding, residual});
  for (int i = 0; i < config_.num_layers; ++i) {
    const LayerWeights& layer = weights_.layers[i];
    Attention(layer, i, step, hook, i == 0 ? TensorView{} : x);
    if (i + 1 == config_.num_layers && num_rows < num_tokens) {
      // Behind the last attention only the tokens whose logits are wanted matter.
      if (num_rows == 0) return;
      const TensorView wanted = Rows(qkv_, num_rows, q_width);
      backend_.GatherRows({&step, attended, wanted});
      attended = wanted;
      x = Rows(x_, num_rows, width);
      backend_.GatherRows({&step, residual, x});
      residual = x;
      x = Rows(residual_, num_rows, width);
    }
    Multiply(layer.o, attended, x);
    FeedForward(layer, residual, x);
  }
  const TensorView normed = Rows(normed_, num_rows, width);
  Norm(x, residual, weights_.final_norm, normed);
  backend_.MatMul(
      {normed, weights_.lm_head, {}, logits_.View(DType::kF32, {num_rows, config_.vocab_size})});
}

// residual += x; attended_ = attention(norm(residual)).
void Model::Attention(const LayerWeights& layer, int index, const ops::Step& step, LayerHook* hook,
                      TensorView x) {
  const int64_t num_tokens = step.num_tokens;
  const int q_heads = config_.num_attention_heads, kv_heads = config_.num_key_value_heads;
  const TensorView normed = Rows(normed_, num_tokens, config_.hidden_size);
  const TensorView qkv = Rows(qkv_, num_tokens, int64_t{q_heads + 2 * kv_heads} * config_.head_dim);
  Norm(x, Rows(residual_, num_tokens, config_.hidden_size), layer.attn_norm, normed);
  Multiply(layer.qkv, normed, qkv);
  if (hook != nullptr) hook->OnInput(index, normed);
  for (int round = 0; round < step.num_rounds(); ++round) {
    AttendRound(layer, {&step, round, index}, hook);
  }
}

// Compresses, appends and attends: what the rounds of a step do one after another.
void Model::AttendRound(const LayerWeights& layer, const ops::LayerRound& at, LayerHook* hook) {
  const int64_t num_tokens = at.step->num_tokens;
  const int q_heads = config_.num_attention_heads, kv_heads = config_.num_key_value_heads;
  const int d = config_.head_dim;
  const TensorView qkv = Rows(qkv_, num_tokens, int64_t{q_heads + 2 * kv_heads} * d);
  ops::AppendParams append{.at = at,
                           .qkv = qkv,
                           .num_q_heads = q_heads,
                           .q_norm = layer.q_norm,
                           .k_norm = layer.k_norm,
                           .epsilon = config_.rms_norm_eps,
                           .rope = rope()};
  if (hook != nullptr) hook->BeforeAppend(append);
  backend_.Append(append);
  if (hook != nullptr) hook->AfterAppend(append);
  backend_.Attention({.at = at,
                      .qkv = qkv,
                      .out = Rows(attended_, num_tokens, int64_t{q_heads} * d),
                      .num_q_heads = q_heads,
                      .scale = 1.0f / std::sqrt(static_cast<float>(d))});
}

// residual += x; x = down(silu(gate) * up) of norm(residual).
void Model::FeedForward(const LayerWeights& layer, TensorView residual, TensorView x) {
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
