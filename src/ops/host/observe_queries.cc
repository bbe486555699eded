#include <algorithm>
#include <cmath>
#include <vector>

#include "ops/host/compression.h"
#include "ops/host/key_blocks.h"

namespace tangram::ops {
namespace {

const float* QueryHead(const ObserveQueriesParams& p, int token, int q_head) {
  const int64_t d = p.pool.head_dim;
  return p.qkv.as<float>() + token * (p.queries.num_q_heads + 2 * p.num_kv_heads) * d + q_head * d;
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
void SumAttention(const ObserveQueriesParams& p, const SequenceSpan& s, int head,
                  bool transposed_keys, float* state) {
  const int window_begin = p.queries.chunk - p.queries.query_window;
  const int first = std::max(0, window_begin - s.since_boundary);
  if (first >= s.num_tokens) return;
  const int history = s.row_history[p.heads.row[head]], retained = history - s.since_boundary;
  const int locked = retained == 0 ? p.queries.sinks : retained - p.window;
  const int base = locked - p.queries.pool_kernel / 2;
  if (s.since_boundary + first == window_begin) {
    std::fill_n(state, QueryStateFloats(p.method, p.queries, p.num_kv_heads, p.window, 0), 0.0f);
  }
  const HeadTokens tokens(p.pool, p.pages, p.heads, s.slot, head);
  const KeyBlocks keys(p.pool, tokens, 0, history + s.num_tokens, transposed_keys);
  std::vector<float> weights(keys.size());
  std::vector<float> scaled(static_cast<size_t>(p.pool.head_dim));
  const int group = p.queries.num_q_heads / p.num_kv_heads;
  for (int i = first; i < s.num_tokens; ++i) {
    const int length = history + i + 1;
    for (int q = 0; q < group; ++q) {
      const float* query = QueryHead(p, s.first_token + i, head * group + q);
      AttentionOf(query, keys, p.pool.head_dim, length, &scaled, &weights);
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
  const int history = s.row_history[p.heads.row[head]];
  const int skipped = history == s.since_boundary ? p.queries.sinks : 0;  // in the first chunk
  const int group = p.queries.num_q_heads / p.num_kv_heads, d = p.pool.head_dim;
  const int64_t floats = QueryStateFloats(p.method, p.queries, p.num_kv_heads, p.window, d);
  BackRotation rotation(p.rope, d);
  std::vector<float> query(static_cast<size_t>(d));
  for (int i = std::max(0, skipped - s.since_boundary); i < s.num_tokens; ++i) {
    const int count = s.since_boundary + i - skipped;
    if (count == 0) std::fill_n(state, floats, 0.0f);
    rotation.MoveTo(p.positions[s.first_token + i]);
    for (int q = 0; q < group; ++q) {
      rotation.Apply(QueryHead(p, s.first_token + i, head * group + q), query.data());
      AddToMoments(query.data(), count, d, p.queries.use_covariance, state + q * (floats / group));
    }
  }
}

}  // namespace

void ObserveQueriesOf(const ObserveQueriesParams& p, const SequenceSpan& s, int head,
                      bool transposed_keys) {
  if (s.since_boundary < 0) return;
  const int64_t floats =
      QueryStateFloats(p.method, p.queries, p.num_kv_heads, p.window, p.pool.head_dim);
  float* state = p.state + (int64_t{s.slot} * p.num_kv_heads + head) * floats;
  if (p.method == ScoreMethod::kExpectedAttention) {
    SumMoments(p, s, head, state);
  } else {
    SumAttention(p, s, head, transposed_keys, state);
  }
}

}  // namespace tangram::ops
