#include <algorithm>
#include <cmath>

#include "ops/reference/compression.h"

namespace tangram::ops::reference {
namespace {

// A head of a sequence at its boundary.
struct Head {
  const ScoreParams& p;
  const BoundarySpan& span;
  int layer, head;
  const KvView& kv = p.at.kv();
  BoundaryRow at{kv, span, layer, head, p.window, p.sinks};
  int q_per_kv = p.queries.num_q_heads / kv.num_kv_heads;  // 0 of methods that look at no query

  // Query `q` of the head's own, of token `i` of the chunk, rotated: d elements.
  const float* Query(int i, int q) const {
    return static_cast<const float*>(p.state) +
           QueryIndex(p.queries, p.shape, layer, span.slot, i) +
           (int64_t{head} * q_per_kv + q) * kv.head_dim;
  }
  // The attention that this query pays each token of the row, 0 behind itself.
  Vector AttentionOf(int i, int q) const {
    Vector paid =
        at.row.Attention(Query(i, q), 1 / std::sqrt(double(kv.head_dim)), at.before + i + 1);
    paid.resize(static_cast<size_t>(at.length));
    return paid;
  }
};

void AddTo(Vector& sum, const Vector& x, double factor) {
  for (size_t i = 0; i < sum.size(); ++i) sum[i] += x[i] * factor;
}

// Each method gives the scores of the candidates.

// arXiv 2504.15364: minus the cosine of the key and the mean of the row's normed keys.
Vector KeyDiff(const Head& h) {
  Vector mean(static_cast<size_t>(h.kv.head_dim));
  for (int t = 0; t < h.at.length; ++t) {
    const Vector key = h.at.row.Key(t);
    if (Norm(key) > 0) AddTo(mean, key, 1 / Norm(key) / h.at.length);
  }
  Vector scores;
  for (int t = h.at.first; t < h.at.last; ++t) {
    const Vector key = h.at.row.Key(t);
    const double norms = Norm(key) * Norm(mean);
    scores.push_back(norms > 0 ? -Dot(key, mean) / norms : 0);
  }
  return scores;
}

Vector StreamingLlm(const Head& h) {
  Vector scores;
  for (int t = h.at.first; t < h.at.last; ++t) scores.push_back(t);
  return scores;
}

// arXiv 2404.14469.
Vector SnapKv(const Head& h) {
  const QueryScoring& q = h.p.queries;
  Vector mean(static_cast<size_t>(h.at.length));
  for (int i = q.chunk - q.query_window; i < q.chunk; ++i) {
    for (int j = 0; j < h.q_per_kv; ++j) {
      AddTo(mean, h.AttentionOf(i, j), 1.0 / (q.query_window * h.q_per_kv));
    }
  }
  const int radius = q.pool_kernel / 2, end = q.pool_mean ? h.at.last : h.at.length;
  Vector scores;
  for (int t = h.at.first; t < h.at.last; ++t) {
    double largest = 0, sum = 0;
    for (int i = std::max(0, t - radius); i < std::min(t + radius + 1, end); ++i) {
      largest = std::max(largest, mean[static_cast<size_t>(i)]);
      sum += mean[static_cast<size_t>(i)];
    }
    scores.push_back(q.pool_mean ? sum / q.pool_kernel : largest);
  }
  return scores;
}

// arXiv 2401.06104. The candidates of all heads of a layer are the same tokens, each somewhere else
// in its row.
Vector Tova(const Head& h) {
  Vector scores(static_cast<size_t>(h.at.last - h.at.first));
  for (int head = 0; head < h.kv.num_kv_heads; ++head) {
    const Head other{h.p, h.span, h.layer, head};
    for (int j = 0; j < h.q_per_kv; ++j) {
      const Vector paid = other.AttentionOf(h.p.queries.chunk - 1, j);
      const Vector candidates(paid.begin() + other.at.first, paid.begin() + other.at.last);
      AddTo(scores, candidates, 1.0 / h.p.queries.num_q_heads);
    }
  }
  return scores;
}

// Pairs (x, y) of the vector become (c x - s y, s x + c y), c and s those of the pair.
void Rotate(RopeStyle style, const Vector& c, const Vector& s, Vector* vector) {
  for (size_t i = 0; i < c.size(); ++i) {
    double& x = (*vector)[style == RopeStyle::kHalf ? i : 2 * i];
    double& y = (*vector)[style == RopeStyle::kHalf ? i + c.size() : 2 * i + 1];
    const double old = x;
    x = c[i] * old - s[i] * y;
    y = s[i] * old + c[i] * y;
  }
}

// The chunk's queries (the sinks' left out), turned back to no position and then by the mean of the
// rotations at the positions to come.
std::vector<Vector> FutureQueries(const Head& h, int q) {
  const QueryScoring& scoring = h.p.queries;
  const RopeView& rope = h.p.rope;
  const auto pairs = static_cast<size_t>(h.kv.head_dim / 2);
  Vector cos(pairs), sin(pairs);
  for (size_t i = 0; i < pairs; ++i) {
    for (int n = 0; n < scoring.future_positions; ++n) {
      const double angle = (h.span.boundary + n) * double{rope.inv_freq[i]};
      cos[i] += std::cos(angle) * rope.scale / scoring.future_positions;
      sin[i] += std::sin(angle) * rope.scale / scoring.future_positions;
    }
  }
  std::vector<Vector> queries;
  for (int i = h.at.before == 0 ? scoring.sinks : 0; i < scoring.chunk; ++i) {
    Vector back_cos, back_sin;
    for (size_t j = 0; j < pairs; ++j) {
      const double angle = (h.span.boundary - scoring.chunk + i) * double{rope.inv_freq[j]};
      back_cos.push_back(std::cos(angle) / rope.scale);
      back_sin.push_back(-std::sin(angle) / rope.scale);
    }
    const float* query = h.Query(i, q);
    Vector& future = queries.emplace_back(query, query + h.kv.head_dim);
    Rotate(rope.style, back_cos, back_sin, &future);
    Rotate(rope.style, cos, sin, &future);
  }
  return queries;
}

// mu.k / sqrt(d) + k'Sigma k / 2d, mu and Sigma those of the queries.
double ExpectedLogit(const std::vector<Vector>& queries, const Vector& key, bool use_covariance) {
  const auto count = static_cast<double>(queries.size()), d = static_cast<double>(key.size());
  double mean = 0, variance = 0;
  for (const Vector& query : queries) mean += Dot(query, key) / count;
  for (const Vector& query : queries) variance += std::pow(Dot(query, key) - mean, 2) / count;
  return mean / std::sqrt(d) + (use_covariance ? variance / (2 * d) : 0);
}

// arXiv 2510.00636.
Vector ExpectedAttention(const Head& h) {
  const QueryScoring& q = h.p.queries;
  Vector scores(static_cast<size_t>(h.at.last - h.at.first));
  for (int j = 0; j < h.q_per_kv; ++j) {
    const std::vector<Vector> queries = FutureQueries(h, j);
    Vector weights;
    for (int t = h.at.first; t < h.at.length; ++t) {
      weights.push_back(ExpectedLogit(queries, h.at.row.Key(t), q.use_covariance));
    }
    Softmax(&weights);
    weights.resize(scores.size());
    AddTo(scores, weights, 1.0 / h.q_per_kv);
  }
  for (size_t i = 0; q.use_value_norm && i < scores.size(); ++i) {
    scores[i] = (scores[i] + q.epsilon) * Norm(h.at.row.Value(h.at.first + static_cast<int>(i)));
  }
  return scores;
}

Vector Scores(const Head& h) {
  switch (h.p.method) {
    case ScoreMethod::kKeyDiff:
      return KeyDiff(h);
    case ScoreMethod::kStreamingLlm:
      return StreamingLlm(h);
    case ScoreMethod::kSnapKv:
      return SnapKv(h);
    case ScoreMethod::kTova:
      return Tova(h);
    case ScoreMethod::kExpectedAttention:
      return ExpectedAttention(h);
  }
  return {};
}

}  // namespace

int64_t QueryIndex(const QueryScoring& queries, const QueryStateShape& shape, int layer, int slot,
                   int position) {
  const int64_t token =
      (int64_t{layer} * shape.num_slots + slot) * queries.chunk + position % queries.chunk;
  return token * queries.num_q_heads * shape.head_dim;
}

void Score(const ScoreParams& p, const BoundarySpan& span, int layer, int head) {
  const Head h{p, span, layer, head};
  const Vector scores = Scores(h);
  for (size_t i = 0; i < scores.size(); ++i) {
    p.pool_scores[h.at.row.ScoreIndex(h.at.first + static_cast<int>(i))] =
        static_cast<float>(scores[i]);
  }
}

}  // namespace tangram::ops::reference
