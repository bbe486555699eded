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

DynamicScorer::DynamicScorer(ops::Backend& backend, const CompressionConfig& config,
                             int num_q_heads)
    : backend_(&backend),
      method_(ScoreMethodOf(config.scorer).value()),
      window_(config.window),
      queries_(QueryScoringOf(config, num_q_heads)) {}

int64_t DynamicScorer::StateFloats(int num_kv_heads, int head_dim) const {
  return num_kv_heads * ops::QueryStateFloats(method_, queries_, num_kv_heads, window_, head_dim);
}

void DynamicScorer::Observe(const ops::AppendParams& appended,
                            std::span<const ops::SequenceSpan> sequences, float* state) const {
  if (!ops::LooksAtQueries(method_)) return;
  backend_->ObserveQueries({.method = method_,
                            .queries = queries_,
                            .num_kv_heads = appended.num_kv_heads,
                            .window = window_,
                            .qkv = appended.qkv,
                            .positions = appended.positions,
                            .rope = appended.rope(),
                            .pool = appended.pool,
                            .pages = appended.pages,
                            .heads = appended.heads,
                            .sequences = sequences,
                            .state = state});
}

void DynamicScorer::Score(const ops::AppendParams& layer, const ops::BoundarySpan& boundary,
                          float* pool_scores, const float* state) const {
  backend_->Score({.method = method_,
                   .num_kv_heads = layer.num_kv_heads,
                   .window = window_,
                   .pool = layer.pool,
                   .pool_scores = pool_scores,
                   .pages = layer.pages,
                   .heads = layer.heads,
                   .sequences = {&boundary, 1},
                   .queries = queries_,
                   .state = state,
                   .rope = layer.rope()});
}

}  // namespace tangram
