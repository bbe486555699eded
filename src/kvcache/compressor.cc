#include "kvcache/compressor.h"

namespace tangram {
namespace {

ops::ScoreMethod MethodOf(Scorer scorer) {
  switch (scorer) {
    case Scorer::kKeyDiff:
      return ops::ScoreMethod::kKeyDiff;
    case Scorer::kStreamingLlm:
      return ops::ScoreMethod::kStreamingLlm;
    default:
      break;
  }
  TANGRAM_CHECK(false, "scorer {} is not dynamic", static_cast<int>(scorer));
}

}  // namespace

Compressor::Compressor(ops::Backend& backend, const KvStorage& kv, const CompressionConfig& config)
    : backend_(&backend), kv_(&kv), config_(config) {}

Result<Compressor> Compressor::Create(ops::Backend& backend, const KvStorage& kv,
                                      const CompressionConfig& config, GateWeights gate,
                                      int max_tokens) {
  Compressor made(backend, kv, config);
  made.gate_ = std::move(gate);
  const KvLayout& layout = kv.layout();
  const size_t count = static_cast<size_t>(kv.num_pages()) * layout.heads.group_size() *
                       static_cast<size_t>(layout.page_size);
  made.scores_ = backend.Allocate(count * sizeof(float));
  made.step_scores_ = backend.Allocate(static_cast<size_t>(max_tokens) *
                                       layout.heads.num_kv_heads() * sizeof(float));
  if (made.scores_.data() == nullptr || made.step_scores_.data() == nullptr) {
    return MakeError(ErrorKind::kOutOfMemory,
                     "the scores of the KV cache do not fit in memory; choose a smaller "
                     "--kv-cache-memory-bytes",
                     "kv_cache_memory_bytes");
  }
  return made;
}

void Compressor::OnInput(int layer, const TensorView& input) {
  if (!IsStatic(config_.scorer)) return;
  current_ = step_scores_.View(DType::kF32, {input.shape[0], kv_->layout().heads.num_kv_heads()});
  const auto l = static_cast<size_t>(layer);
  backend_->MatMul({input, gate_.weight[l], gate_.bias[l], current_});
}

void Compressor::AfterAppend(int layer, ops::PageTableView pages,
                             std::span<const ops::SequenceSpan> sequences, const TensorView&) {
  if (!IsStatic(config_.scorer)) return;
  backend_->AppendScores({.scores = current_,
                          .pool = kv_->pool(),
                          .pool_scores = static_cast<float*>(scores_.data()),
                          .pages = pages,
                          .heads = kv_->heads(layer),
                          .sequences = sequences});
}

void Compressor::BeforeAppend(int layer, ops::PageTableView pages,
                              std::span<const ops::BoundarySpan> sequences) {
  if (sequences.empty()) return;
  auto* pool_scores = static_cast<float*>(scores_.data());
  const int num_heads = kv_->layout().heads.num_kv_heads();
  if (!IsStatic(config_.scorer)) {
    backend_->Score({.method = MethodOf(config_.scorer),
                     .num_kv_heads = num_heads,
                     .window = config_.window,
                     .pool = kv_->pool(),
                     .pool_scores = pool_scores,
                     .pages = pages,
                     .heads = kv_->heads(layer),
                     .sequences = sequences});
  }
  backend_->Compact({.num_kv_heads = num_heads,
                     .window = config_.window,
                     .pool = kv_->pool(),
                     .pool_scores = pool_scores,
                     .pages = pages,
                     .heads = kv_->heads(layer),
                     .sequences = sequences});
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
