#include <algorithm>
#include <cmath>
#include <vector>

#include "ops/cpu/compression.h"
#include "ops/cpu/key_blocks.h"

namespace tangram::ops {
namespace {

const float* QueryHead(const ObserveQueriesParams& p, int token, int q_head) {
  const int64_t d = p.at.kv().head_dim;
  return p.qkv.as<float>() + token * (p.queries.num_q_heads + 2 * p.at.kv().num_kv_heads) * d +
         q_head * d;
}

// Softmax of scale * query . key over the first `length` keys.
void AttentionOf(const float* query, const KeyBlocks& keys, int dim, int length,
                 std::vector<float>* scaled, std::vector<float>* weights) {
  const float scale = 1.0f / std::sqrt(static_cast<float>(dim));
  for (int i = 0; i < dim; ++i) (*scaled)[static_cast<size_t>(i)] = query[i] * scale;
  float* w = weights->data();
  keys.Dot(scaled->data(), length, w);
  const float largest = *std::max_element(w, w + length);
  double sum = 0;
  for (int t = 0; t < length; ++t) {
    w[t] = std::exp(w[t] - largest);
    sum += w[t];
  }
  const auto inverse = static_cast<float>(1 / sum);
  for (int t = 0; t < length; ++t) w[t] *= inverse;
}

// state[i] += the attention paid to token `base + i` of the row.
void SumAttention(const ObserveQueriesParams& p, const SequenceSpan& s, int head, float* state) {
  const int window_begin = p.queries.chunk - p.queries.query_window;
  const int since = s.position % p.queries.chunk;
  const int first = std::max(0, window_begin - since);
  if (first >= s.num_tokens) return;
  const int history = p.at.History(s, p.at.group(head)), retained = history - since;
  const int protected_length = retained == 0 ? p.queries.sinks : retained - p.window;
  const int base = protected_length - p.queries.pool_kernel / 2;
  if (since + first == window_begin) {
    std::fill_n(state, QueryStateFloats(p.method, p.queries, p.at.kv().num_kv_heads, p.window, 0),
                0.0f);
  }
  const HeadTokens tokens(p.at.kv(), p.at.layer, s.slot, head);
  const KeyBlocks keys(p.at.kv(), tokens, 0, history + s.num_tokens);
  std::vector<float> weights(keys.size());
  std::vector<float> scaled(static_cast<size_t>(p.at.kv().head_dim));
  const int group = p.queries.num_q_heads / p.at.kv().num_kv_heads;
  for (int i = first; i < s.num_tokens; ++i) {
    const int length = history + i + 1;
    for (int q = 0; q < group; ++q) {
      const float* query = QueryHead(p, s.first_token + i, head * group + q);
      AttentionOf(query, keys, p.at.kv().head_dim, length, &scaled, &weights);
      for (int t = std::max(0, base); t < length; ++t) {
        state[t - base] += weights[static_cast<size_t>(t)];
      }
    }
  }
}

// Gives queries back what they were before their rotation to a position.
class BackRotation {
 public:
  BackRotation(const RopeView& rope, int dim)
      : rope_(rope), half_(dim / 2), cos_(static_cast<size_t>(half_)), sin_(cos_) {}

  void MoveTo(int position) {
    for (int i = 0; i < half_; ++i) {
      const double angle = static_cast<double>(position) * rope_.inv_freq[i];
      cos_[static_cast<size_t>(i)] = std::cos(angle) / rope_.scale;
      sin_[static_cast<size_t>(i)] = std::sin(angle) / rope_.scale;
    }
  }
  void Apply(const float* query, float* out) const {
    for (int i = 0; i < half_; ++i) {
      const double c = cos_[static_cast<size_t>(i)], s = sin_[static_cast<size_t>(i)];
      const int x = rope_.style == RopeStyle::kHalf ? i : 2 * i;
      const int y = rope_.style == RopeStyle::kHalf ? i + half_ : 2 * i + 1;
      out[x] = static_cast<float>(query[x] * c + query[y] * s);
      out[y] = static_cast<float>(query[y] * c - query[x] * s);
    }
  }

 private:
  const RopeView& rope_;
  int half_;
  std::vector<double> cos_, sin_;
};

// Adds a query to the mean, and to the sum of squares about it, of `count` before it (Welford
// 1962).
void AddToMoments(float* query, int count, int dim, bool covariance, float* mean) {
  const float share = 1.0f / static_cast<float>(count + 1);
  float* squares = mean + dim;
  for (int i = 0; i < dim; ++i) {
    query[i] -= mean[i];
    mean[i] += query[i] * share;
  }
  if (!covariance) return;
  for (int i = 0; i < dim; ++i) {
    const float factor = query[i] * (1 - share);
    for (int j = 0; j <= i; ++j) squares[j] += factor * query[j];
    squares += i + 1;
  }
}

void SumMoments(const ObserveQueriesParams& p, const SequenceSpan& s, int head, float* state) {
  const int since = s.position % p.queries.chunk;
  const int history = p.at.History(s, p.at.group(head));
  const int skipped = history == since ? p.queries.sinks : 0;  // in the first chunk
  const int group = p.queries.num_q_heads / p.at.kv().num_kv_heads, d = p.at.kv().head_dim;
  const int64_t floats = QueryStateFloats(p.method, p.queries, p.at.kv().num_kv_heads, p.window, d);
  BackRotation rotation(p.rope, d);
  std::vector<float> query(static_cast<size_t>(d));
  for (int i = std::max(0, skipped - since); i < s.num_tokens; ++i) {
    const int count = since + i - skipped;
    if (count == 0) std::fill_n(state, floats, 0.0f);
    rotation.MoveTo(s.position + i);
    for (int q = 0; q < group; ++q) {
      rotation.Apply(QueryHead(p, s.first_token + i, head * group + q), query.data());
      AddToMoments(query.data(), count, d, p.queries.use_covariance, state + q * (floats / group));
    }
  }
}

}  // namespace

int64_t QueryStateFloats(ScoreMethod method, const QueryScoring& q, int num_kv_heads, int window,
                         int head_dim) {
  if (!LooksAtQueries(method)) return 0;
  if (method != ScoreMethod::kExpectedAttention) return q.chunk + window + q.pool_kernel / 2;
  const int64_t d = head_dim;
  return q.num_q_heads / num_kv_heads * (d + (q.use_covariance ? d * (d + 1) / 2 : 0));
}

void ObserveQueriesOf(const ObserveQueriesParams& p, const SequenceSpan& s, int head) {
  if (!s.compressed) return;
  const KvView& kv = p.at.kv();
  const int64_t floats =
      QueryStateFloats(p.method, p.queries, kv.num_kv_heads, p.window, kv.head_dim);
  float* state =
      static_cast<float*>(p.state) +
      ((int64_t{p.at.layer} * p.shape.num_slots + s.slot) * kv.num_kv_heads + head) * floats;
  if (p.method == ScoreMethod::kExpectedAttention) {
    SumMoments(p, s, head, state);
  } else {
    SumAttention(p, s, head, state);
  }
}

}  // namespace tangram::ops
