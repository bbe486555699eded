#include "ops/reference/compression.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"

namespace tangram::ops::reference {

BoundaryRow::BoundaryRow(const KvView& kv, const BoundarySpan& span, int layer, int head,
                         int window, int sinks)
    : row(kv, layer, span.slot, head) {
  const int chunk = kv.retention.chunk, k = span.boundary / chunk;
  before = Retained(kv.retention, span.retention, row.group(), k - 1);
  length = before + chunk;
  first = k == 1 ? sinks : before - window;
  last = length - window;
}

namespace {

// The `count` best of the candidates, ascending. On ties the later token is better.
std::vector<int> BestCandidates(const BoundaryRow& at, const float* pool_scores, int count) {
  const auto score = [&](int token) { return pool_scores[at.row.ScoreIndex(token)]; };
  std::vector<int> tokens;
  for (int t = at.first; t < at.last; ++t) tokens.push_back(t);
  std::ranges::sort(
      tokens, [&](int a, int b) { return score(a) != score(b) ? score(a) > score(b) : a > b; });
  tokens.resize(static_cast<size_t>(count));
  std::ranges::sort(tokens);
  return tokens;
}

}  // namespace

// Out of place: what stays is read before anything is written.
void Compact(const CompactParams& p, const BoundarySpan& span, int layer, int head) {
  const KvView& kv = p.at.kv();
  const BoundaryRow at(kv, span, layer, head, p.window, p.sinks);
  const int kept =
      Retained(kv.retention, span.retention, at.row.group(), span.boundary / kv.retention.chunk);
  const int count = kept - p.window - at.first;
  TANGRAM_CHECK(count >= 0 && count <= at.last - at.first, "{} of candidates [{}, {})", count,
                at.first, at.last);
  std::vector<int> stay = BestCandidates(at, p.pool_scores, count);
  for (int t = at.last; t < at.length; ++t) stay.push_back(t);
  std::vector<Vector> keys, values;
  std::vector<float> scores;
  for (const int t : stay) {
    keys.push_back(at.row.Key(t));
    values.push_back(at.row.Value(t));
    scores.push_back(p.pool_scores[at.row.ScoreIndex(t)]);
  }
  for (size_t i = 0; i < stay.size(); ++i) {
    const int to = at.first + static_cast<int>(i);
    at.row.Set(to, keys[i], values[i]);
    p.pool_scores[at.row.ScoreIndex(to)] = scores[i];
  }
}

void AppendScores(const AppendScoresParams& p, int head) {
  const KvView& kv = p.step->kv;
  const BoundaryRow at(kv, p.boundary, p.layer, head, 0, 0);
  for (int i = 0; i < kv.retention.chunk; ++i) {
    p.pool_scores[at.row.ScoreIndex(at.before + i)] =
        p.scores.as<float>()[int64_t{i} * kv.num_kv_heads + head];
  }
}

namespace {

// Calls visit(weights) for each query of the step that looks at the KV head: weights[t] is the
// attention that it pays token t of the row, itself the last.
template <class Visit>
void ForQueries(const StepQueries& step, int head, const Visit& visit) {
  const KvView& kv = step.at.kv();
  const SequenceSpan& s = step.at.span(0);
  const HeadRow row(kv, step.at.layer, s.slot, head);
  const int history = step.at.History(s, row.group()), group = step.num_q_heads / kv.num_kv_heads;
  const int64_t width = int64_t{step.num_q_heads + 2 * kv.num_kv_heads} * kv.head_dim;
  for (int i = 0; i < s.num_tokens; ++i) {
    for (int q_head = head * group; q_head < (head + 1) * group; ++q_head) {
      const float* query =
          step.qkv.as<float>() + (s.first_token + i) * width + int64_t{q_head} * kv.head_dim;
      visit(row.Attention(query, step.scale, history + i + 1));
    }
  }
}

}  // namespace

void MaxAttention(const MaxAttentionParams& p, int head) {
  const LayerRound& at = p.step.at;
  const int first = at.History(at.span(0), at.group(head)) - p.count;
  for (int t = 0; t < p.count; ++t) p.out[int64_t{t} * at.kv().num_kv_heads + head] = 0;
  ForQueries(p.step, head, [&](const Vector& weights) {
    for (int t = 0; t < p.count; ++t) {
      float& largest = p.out[int64_t{t} * at.kv().num_kv_heads + head];
      largest = std::max(largest, static_cast<float>(weights[static_cast<size_t>(first + t)]));
    }
  });
}

void SumAttention(const SumAttentionParams& p, int head) {
  Vector sums;
  ForQueries(p.step, head, [&](const Vector& weights) {
    sums.resize(weights.size());
    for (size_t t = 0; t + static_cast<size_t>(p.window) < weights.size(); ++t) {
      sums[t] += weights[t];
    }
  });
  for (size_t t = 0; t < sums.size(); ++t) {
    p.out[t * static_cast<size_t>(p.step.at.kv().num_kv_heads) + static_cast<size_t>(head)] +=
        static_cast<float>(sums[t]);
  }
}

float FastKvzipScore(const FastKvzipParams& p, int64_t token, int64_t head) {
  const FastKvzipGate& gate = p.gate;
  const int64_t size = gate.q_norm.shape[0], sinks = gate.base.shape[2], group = gate.bias.shape[2];
  const int64_t heads = p.scores.shape[1];
  const auto vector = [&](const TensorView& of, int64_t row) {
    return Vector(of.as<float>() + row * size, of.as<float>() + (row + 1) * size);
  };
  constexpr double kEpsilon = 1e-6;  // of the published gate's norms
  const auto normed = [&](Vector x, const TensorView& weight) {
    const double rms = std::sqrt(Dot(x, x) / static_cast<double>(size) + kEpsilon);
    for (size_t i = 0; i < x.size(); ++i) x[i] *= weight.as<float>()[i] / rms;
    return x;
  };
  const double scale = 1 / std::sqrt(static_cast<double>(size));
  const Vector key = normed(vector(p.keys, token * heads + head), gate.k_norm);
  double score = 0;
  for (int64_t q_head = head * group; q_head < (head + 1) * group; ++q_head) {
    const Vector query = normed(vector(p.queries, token * heads * group + q_head), gate.q_norm);
    const double logit = Dot(key, query) * scale + gate.bias.as<float>()[q_head];
    double sum = 1;
    for (int64_t s = 0; s < sinks; ++s) {
      sum += std::exp(Dot(vector(gate.base, head * sinks + s), query) * scale - logit);
    }
    score += 1 / sum / static_cast<double>(group);
  }
  return static_cast<float>(score);
}

}  // namespace tangram::ops::reference
