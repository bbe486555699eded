#include "calibration/hooks.h"

namespace tangram {

ReadingHook::ReadingHook(ops::Backend& backend, int num_layers, int num_kv_heads, int length,
                         int window)
    : backend_(backend),
      heads_(num_kv_heads),
      length_(length),
      window_(window),
      sums_(static_cast<size_t>(num_layers),
            std::vector<float>(static_cast<size_t>(length) * static_cast<size_t>(num_kv_heads))) {}

void ReadingHook::AfterAppend(int layer, const ops::AppendParams& appended) {
  q_heads_per_kv_ = appended.num_q_heads / appended.num_kv_heads;
  backend_.SumAttention(
      {StepQueriesOf(appended), window_, sums_[static_cast<size_t>(layer)].data()});
}

float ReadingHook::Mean(int layer, int token, int head) const {
  const int queries = (length_ - token - window_) * q_heads_per_kv_;
  if (queries <= 0) return 0;
  const auto at = static_cast<size_t>(token * heads_ + head);
  return sums_[static_cast<size_t>(layer)][at] / static_cast<float>(queries);
}

DynamicScoreHook::DynamicScoreHook(const std::vector<Scorer>& scorers,
                                   const CompressionConfig& config, int num_q_heads,
                                   const KvStorage& kv, ops::Backend& backend)
    : config_(config), kv_(kv) {
  for (const Scorer scorer : scorers) {
    CompressionConfig c = config;
    c.scorer = scorer;
    One& one = scorers_.emplace_back(One{scorer, DynamicScorer(backend, c, num_q_heads), {}, {}});
    one.state.resize(static_cast<size_t>(
        one.calls.StateFloats(kv.layout().heads.num_kv_heads(), kv.layout().head_dim)));
    one.scores.resize(static_cast<size_t>(kv.num_pages() * kv.layout().page_size));
  }
}

void DynamicScoreHook::AfterAppend(int, const ops::AppendParams& appended) {
  ops::SequenceSpan span = appended.sequences.front();
  span.since_boundary = 0;
  for (One& one : scorers_) {
    one.calls.Observe(appended, {&span, 1}, one.state.data());
    Score(one, appended);
  }
}

void DynamicScoreHook::ForScores(
    size_t heads, size_t length,
    const std::function<void(Scorer, const TextScores&)>& visit) const {
  // The scores of a head lie side by side.
  for (const One& one : scorers_) {
    TextScores scores(heads);
    const size_t stride = one.scores.size() / heads;
    for (size_t h = 0; h < heads; ++h) {
      const auto first = one.scores.begin() + static_cast<ptrdiff_t>(h * stride);
      scores[h].assign(first, first + static_cast<ptrdiff_t>(length));
    }
    visit(one.scorer, scores);
  }
}

void DynamicScoreHook::Score(One& one, const ops::AppendParams& appended) {
  const ops::SequenceSpan& chunk = appended.sequences.front();
  const int begin = chunk.row_history[0], end = begin + chunk.num_tokens;
  const auto rows = static_cast<size_t>(kv_.layout().heads.num_rows());
  const std::vector<int32_t> locked(rows, begin == 0 ? config_.sinks : begin - config_.window);
  const std::vector<int32_t> length(rows, end);
  const ops::BoundarySpan span{0, end, locked.data(), length.data(), length.data()};
  one.calls.Score(appended, span, one.scores.data(), one.state.data());
}

}  // namespace tangram
