#include "kvcache/dynamic_scorer.h"

namespace tangram {
namespace {

ops::QueryScoring QueryScoringOf(const CompressionConfig& config, int num_q_heads) {
  ops::QueryScoring q;
  q.num_q_heads = num_q_heads;
  q.chunk = config.chunk;
  q.sinks = config.sinks;
  if (config.scorer == Scorer::kSnapKv) {
    q.query_window = config.lookback();
    q.pool_kernel = config.snapkv.kernel;
    q.pool_mean = config.snapkv.mean;
  }
  const ExpectedAttentionConfig& ea = config.expected_attention;
  q.use_covariance = ea.covariance;
  q.use_value_norm = ea.value_norm;
  q.future_positions = ea.future_positions;
  q.epsilon = ea.epsilon;
  return q;
}

}  // namespace

std::optional<ops::ScoreMethod> ScoreMethodOf(Scorer scorer) {
  switch (scorer) {
    case Scorer::kKeyDiff:
      return ops::ScoreMethod::kKeyDiff;
    case Scorer::kStreamingLlm:
      return ops::ScoreMethod::kStreamingLlm;
    case Scorer::kSnapKv:
      return ops::ScoreMethod::kSnapKv;
    case Scorer::kTova:
      return ops::ScoreMethod::kTova;
    case Scorer::kExpectedAttention:
      return ops::ScoreMethod::kExpectedAttention;
    default:
      return std::nullopt;
  }
}

Result<DynamicScorer> DynamicScorer::Create(ops::Backend& backend, const CompressionConfig& config,
                                            const ops::RopeView& rope, int num_q_heads,
                                            const ops::QueryStateShape& shape) {
  DynamicScorer made;
  made.backend_ = &backend;
  made.method_ = ScoreMethodOf(config.scorer).value();
  made.window_ = config.window;
  made.sinks_ = config.sinks;
  made.queries_ = QueryScoringOf(config, num_q_heads);
  made.rope_ = rope;
  made.shape_ = shape;
  const size_t bytes = backend.QueryStateBytes(made.method_, made.queries_, made.window_, shape);
  if (bytes == 0) return made;
  made.state_ = backend.Allocate(bytes);
  if (made.state_.data() != nullptr) return made;
  return MakeError(
      ErrorKind::kOutOfMemory,
      fmt::format("what the scorer remembers of {} sequences, {:.2f} GiB, does not fit "
                  "in memory; choose a smaller --max-num-seqs",
                  shape.num_slots, static_cast<double>(bytes) / (1 << 30)),
      "max_num_seqs");
}

void DynamicScorer::Observe(const ops::AppendParams& appended) const {
  if (!ops::LooksAtQueries(method_)) return;
  backend_->ObserveQueries({.at = appended.at,
                            .method = method_,
                            .queries = queries_,
                            .window = window_,
                            .qkv = appended.qkv,
                            .rope = appended.rope,
                            .state = state_.data(),
                            .shape = shape_});
}

void DynamicScorer::Score(const ops::BoundaryRange& at, float* pool_scores) const {
  backend_->Score({.at = at,
                   .method = method_,
                   .window = window_,
                   .sinks = sinks_,
                   .pool_scores = pool_scores,
                   .queries = queries_,
                   .rope = rope_,
                   .state = state_.data(),
                   .shape = shape_});
}

}  // namespace tangram
