#include "kvcache/gate_scorer.h"

namespace tangram {

Result<GateScorer> GateScorer::Create(ops::Backend& backend, GateWeights gate, int num_kv_heads,
                                      int max_tokens) {
  GateScorer made;
  made.backend_ = &backend;
  made.gate_ = std::move(gate);
  made.num_kv_heads_ = num_kv_heads;
  bool fits = true;
  const auto allocate = [&](Buffer& buffer, int64_t width) {
    buffer = backend.Allocate(static_cast<size_t>(max_tokens * width) * sizeof(float));
    fits = fits && buffer.data() != nullptr;
  };
  allocate(made.scores_, num_kv_heads);
  if (!made.gate_.fastkvzip.empty()) {
    allocate(made.queries_, made.gate_.fastkvzip.front().q_weight.shape[0]);
    allocate(made.keys_, made.gate_.fastkvzip.front().k_weight.shape[0]);
  }
  if (fits) return made;
  return MakeError(ErrorKind::kOutOfMemory,
                   fmt::format("no memory for the scores of steps of {} tokens; choose a smaller "
                               "--max-num-batched-tokens",
                               max_tokens),
                   "max_num_batched_tokens");
}

TensorView GateScorer::Scores(int layer, const TensorView& input) {
  const auto l = static_cast<size_t>(layer);
  const int64_t tokens = input.shape[0];
  const TensorView scores = scores_.View(DType::kF32, {tokens, num_kv_heads_});
  if (gate_.fastkvzip.empty()) {
    backend_->MatMul({input, gate_.weight[l], gate_.bias[l], scores});
    return scores;
  }
  const ops::FastKvzipGate& gate = gate_.fastkvzip[l];
  const TensorView queries = queries_.View(DType::kF32, {tokens, gate.q_weight.shape[0]});
  const TensorView keys = keys_.View(DType::kF32, {tokens, gate.k_weight.shape[0]});
  backend_->MatMul({input, gate.q_weight, gate.q_bias, queries});
  backend_->MatMul({input, gate.k_weight, {}, keys});
  backend_->FastKvzip({queries, keys, gate, scores});
  return scores;
}

}  // namespace tangram
