#include "kvcache/compressor.h"

namespace tangram {

Result<Compressor> Compressor::Create(ops::Backend& backend, const HeadGroupMap& heads,
                                      int head_dim, const CompressionConfig& config,
                                      GateWeights gate, const Limits& limits) {
  Compressor made(backend, heads, config, limits);
  const int layers = heads.num_layers(), kv_heads = heads.num_kv_heads();
  if (UsesGate(config.scorer)) {
    TANGRAM_ASSIGN_OR_RETURN(
        made.gate_, GateScorer::Create(backend, std::move(gate), kv_heads, limits.max_tokens));
  }
  if (ScoreMethodOf(config.scorer)) {
    TANGRAM_ASSIGN_OR_RETURN(made.dynamic_,
                             DynamicScorer::Create(backend, config, limits.rope, limits.num_q_heads,
                                                   {limits.max_seqs, layers, kv_heads, head_dim}));
  }
  if (config.needs_reconstruction_pass()) {
    const int64_t floats = int64_t{layers} * limits.max_seqs * config.chunk * kv_heads;
    made.chunk_scores_ = backend.Allocate(static_cast<size_t>(floats) * sizeof(float));
    if (made.chunk_scores_.data() == nullptr) {
      return MakeError(ErrorKind::kOutOfMemory,
                       fmt::format("the scores of a chunk of each of {} sequences do not fit in "
                                   "memory; choose a smaller --max-num-seqs",
                                   limits.max_seqs),
                       "max_num_seqs");
    }
  }
  return made;
}

float* Compressor::ChunkScores(int layer, int slot) const {
  const int64_t chunk = int64_t{config_.chunk} * num_kv_heads_;
  return static_cast<float*>(chunk_scores_.data()) +
         (int64_t{layer} * limits_.max_seqs + slot) * chunk;
}

void Compressor::BeforeStep(const ops::Step& step) { Compress(step, 0, 0, num_layers_); }

void Compressor::OnInput(int layer, const TensorView& input) {
  if (gate_) current_ = gate_->Scores(layer, input);
}

void Compressor::BeforeAppend(ops::AppendParams& next) {
  if (next.at.round > 0) Compress(*next.at.step, next.at.round, next.at.layer, 1);
  if (!gate_) return;
  next.new_scores = current_;
  next.pool_scores = pool_scores_;
}

void Compressor::AfterAppend(const ops::AppendParams& appended) {
  if (dynamic_) dynamic_->Observe(appended);
}

void Compressor::AppendChunkScores(const ops::BoundaryRange& at) {
  for (int layer = at.first_layer; layer < at.first_layer + at.num_layers; ++layer) {
    for (int i = 0; i < at.count; ++i) {
      const ops::BoundarySpan& boundary = at.boundary(i);
      backend_->AppendScores({.step = at.step,
                              .boundary = boundary,
                              .layer = layer,
                              .scores = {ChunkScores(layer, boundary.slot),
                                         DType::kF32,
                                         {config_.chunk, num_kv_heads_}},
                              .pool_scores = pool_scores_});
    }
  }
}

// Sequences that share pages of the chunk, and went apart behind them, score its tokens
// differently: so one is scored and compacted before the next is scored. (Compaction writes only
// pages of the sequence's own.) Scores that depend on the tokens before alone are there already.
void Compressor::Compress(const ops::Step& step, int round, int first_layer, int num_layers) {
  const int count = step.input->rounds[static_cast<size_t>(round)].num_boundaries;
  const int at_once = gate_ ? count : 1;
  for (int i = 0; i < count; i += at_once) {
    const ops::BoundaryRange at{&step, round, i, at_once, first_layer, num_layers};
    if (dynamic_) dynamic_->Score(at, pool_scores_);
    if (config_.needs_reconstruction_pass()) AppendChunkScores(at);
    backend_->Compact(
        {.at = at, .window = config_.window, .sinks = config_.sinks, .pool_scores = pool_scores_});
  }
}

}  // namespace tangram
