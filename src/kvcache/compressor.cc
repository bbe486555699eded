#include "kvcache/compressor.h"

namespace tangram {

Compressor::Compressor(ops::Backend& backend, const KvStorage& kv, const CompressionConfig& config,
                       const Limits& limits)
    : backend_(&backend),
      kv_(&kv),
      config_(config),
      limits_(limits),
      history_(static_cast<size_t>(kv.layout().heads.num_rows())) {
  if (ScoreMethodOf(config.scorer)) dynamic_.emplace(backend, config, limits.num_q_heads);
}

Result<Compressor> Compressor::Create(ops::Backend& backend, const KvStorage& kv,
                                      const CompressionConfig& config, GateWeights gate,
                                      const Limits& limits) {
  Compressor made(backend, kv, config, limits);
  const KvLayout& layout = kv.layout();
  const size_t count = static_cast<size_t>(kv.num_pages()) * layout.heads.group_size() *
                       static_cast<size_t>(layout.page_size);
  made.scores_ = backend.Allocate(count * sizeof(float));
  if (made.scores_.data() == nullptr) {
    return MakeError(ErrorKind::kOutOfMemory,
                     "the scores of the KV cache do not fit in memory; choose a smaller "
                     "--kv-cache-memory-bytes",
                     "kv_cache_memory_bytes");
  }
  if (UsesGate(config.scorer)) {
    TANGRAM_ASSIGN_OR_RETURN(
        made.gate_, GateScorer::Create(backend, std::move(gate), layout.heads.num_kv_heads(),
                                       limits.max_tokens));
  }
  const size_t state = static_cast<size_t>(layout.heads.num_layers()) * limits.max_seqs *
                       static_cast<size_t>(made.StateFloats()) * sizeof(float);
  if (state == 0) return made;
  made.state_ = backend.Allocate(state);
  if (made.state_.data() == nullptr) {
    return MakeError(ErrorKind::kOutOfMemory,
                     fmt::format("what the scorer remembers of {} sequences, {:.2f} GiB, does not "
                                 "fit in memory; choose a smaller --max-num-seqs",
                                 limits.max_seqs, static_cast<double>(state) / (1 << 30)),
                     "max_num_seqs");
  }
  return made;
}

// Of one slot, in one layer.
int64_t Compressor::StateFloats() const {
  const int heads = kv_->layout().heads.num_kv_heads();
  if (config_.needs_reconstruction_pass()) return int64_t{config_.chunk} * heads;
  return dynamic_ ? dynamic_->StateFloats(heads, kv_->layout().head_dim) : 0;
}

float* Compressor::State(int layer) const {
  return static_cast<float*>(state_.data()) + layer * limits_.max_seqs * StateFloats();
}

float* Compressor::ChunkScores(int layer, int slot) { return State(layer) + slot * StateFloats(); }

void Compressor::OnInput(int layer, const TensorView& input) {
  if (gate_) current_ = gate_->Scores(layer, input);
}

void Compressor::AfterAppend(int layer, const ops::AppendParams& appended) {
  if (gate_) {
    backend_->AppendScores({.scores = current_,
                            .pool = appended.pool,
                            .pool_scores = static_cast<float*>(scores_.data()),
                            .pages = appended.pages,
                            .heads = appended.heads,
                            .sequences = appended.sequences});
  } else if (dynamic_) {
    dynamic_->Observe(appended, appended.sequences, State(layer));
  }
}

void Compressor::StoreChunkScores(int layer, const ops::AppendParams& next,
                                  const ops::BoundarySpan& boundary) {
  for (size_t row = 0; row < history_.size(); ++row) {
    history_[row] = boundary.length[row] - config_.chunk;
  }
  const ops::SequenceSpan chunk{boundary.slot, 0, config_.chunk, history_.data()};
  backend_->AppendScores({.scores = {ChunkScores(layer, boundary.slot),
                                     DType::kF32,
                                     {config_.chunk, next.num_kv_heads}},
                          .pool = next.pool,
                          .pool_scores = static_cast<float*>(scores_.data()),
                          .pages = next.pages,
                          .heads = next.heads,
                          .sequences = {&chunk, 1}});
}

// Sequences that share pages of the chunk, and went apart behind them, score its tokens
// differently: so one is scored and compacted before the next is scored. (Compaction writes only
// pages of the sequence's own.) Scores that hang on the tokens before alone are there already.
void Compressor::BeforeAppend(int layer, const ops::AppendParams& next,
                              std::span<const ops::BoundarySpan> boundaries) {
  const size_t at_once = gate_ ? boundaries.size() : 1;
  for (size_t i = 0; i < boundaries.size(); i += at_once) {
    if (dynamic_) {
      dynamic_->Score(next, boundaries[i], static_cast<float*>(scores_.data()), State(layer));
    }
    if (config_.needs_reconstruction_pass()) StoreChunkScores(layer, next, boundaries[i]);
    backend_->Compact({.num_kv_heads = next.num_kv_heads,
                       .window = config_.window,
                       .pool = next.pool,
                       .pool_scores = static_cast<float*>(scores_.data()),
                       .pages = next.pages,
                       .heads = next.heads,
                       .sequences = boundaries.subspan(i, at_once)});
  }
}

// A score takes as many bytes as K and V of 16 bits with one element each.
void Compressor::CopyPages(std::span<const int32_t> from, std::span<const int32_t> to) {
  ops::KvPoolView scores = kv_->pool();
  scores.data = scores_.data();
  scores.dtype = DType::kF16;
  scores.head_dim = 1;
  backend_->CopyPages({scores, from, to});
}

}  // namespace tangram
