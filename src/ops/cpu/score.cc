#include <algorithm>
#include <cmath>
#include <vector>

#include "base/check.h"
#include "ops/cpu/compression.h"
#include "ops/cpu/key_blocks.h"

namespace tangram::ops {
namespace {

// One head of a sequence at its boundary: candidates are [first, last) of the row, the window the
// rest.
struct HeadAtBoundary {
  const ScoreParams& p;
  const BoundarySpan& s;
  int layer, head;
  const KvView& kv = p.at.kv();
  HeadTokens tokens{kv, layer, s.slot, head};
  RowAtBoundary row =
      RowOf(kv, s, kv.heads.group[layer * kv.num_kv_heads + head], p.window, p.sinks);
  int first = row.first;
  int length = row.length;
  int last = length - p.window;

  void Set(int token, double score) const {
    p.pool_scores[tokens.score_index(token)] = static_cast<float>(score);
  }
  // What the chunk's queries left for a KV head of the layer.
  const float* State(int kv_head) const {
    const int64_t floats =
        QueryStateFloats(p.method, p.queries, kv.num_kv_heads, p.window, kv.head_dim);
    return static_cast<const float*>(p.state) +
           ((int64_t{layer} * p.shape.num_slots + s.slot) * kv.num_kv_heads + kv_head) * floats;
  }
};

double Norm(const std::vector<float>& x) {
  double sum = 0;
  for (float v : x) sum += double{v} * v;
  return std::sqrt(sum);
}

// score(t) = -cos(k_t, mean over the whole row of k / |k|).
void ScoreKeyDiff(const HeadAtBoundary& h) {
  const auto d = static_cast<size_t>(h.kv.head_dim);
  std::vector<float> key(d);
  std::vector<double> mean(d);  // not divided by the count: the cosine does not care
  for (int t = 0; t < h.length; ++t) {
    LoadKey(h.kv, h.tokens, t, key.data());
    const double norm = Norm(key), scale = norm > 0 ? 1 / norm : 0;
    for (size_t i = 0; i < d; ++i) mean[i] += key[i] * scale;
  }
  double mean_norm = 0;
  for (double v : mean) mean_norm += v * v;
  mean_norm = std::sqrt(mean_norm);
  for (int t = h.first; t < h.last; ++t) {
    LoadKey(h.kv, h.tokens, t, key.data());
    double dot = 0;
    for (size_t i = 0; i < d; ++i) dot += key[i] * mean[i];
    const double scale = Norm(key) * mean_norm;
    h.Set(t, scale > 0 ? -dot / scale : 0);
  }
}

void ScoreSnapKv(const HeadAtBoundary& h) {
  const QueryScoring& q = h.p.queries;
  const int radius = q.pool_kernel / 2;
  const float* state = h.State(h.head);
  const auto attention = [&](int token) { return double{state[token - h.first + radius]}; };
  const int queries = q.query_window * (q.num_q_heads / h.kv.num_kv_heads);
  for (int t = h.first; t < h.last; ++t) {
    const int begin = std::max(0, t - radius);
    const int end = std::min(t + radius + 1, q.pool_mean ? h.last : h.length);
    double pooled = 0;
    for (int i = begin; i < end; ++i) {
      pooled = q.pool_mean ? pooled + attention(i) : std::max(pooled, attention(i));
    }
    h.Set(t, pooled / (q.pool_mean ? queries * q.pool_kernel : queries));
  }
}

// The rows of a layer's heads have the same tokens from the first candidate on.
void ScoreTova(const HeadAtBoundary& h) {
  for (int t = h.first; t < h.last; ++t) {
    double sum = 0;
    for (int head = 0; head < h.kv.num_kv_heads; ++head) sum += h.State(head)[t - h.first];
    h.Set(t, sum / h.p.queries.num_q_heads);
  }
}

// Turns keys k into R'k, R the mean of the rotations at `count` positions from `begin` on: (R mu).k
// = mu.(R'k), and the same for the covariance.
void RotateKeys(const RopeView& rope, int begin, int count, int dim, KeyBlocks* keys) {
  constexpr int kBlock = KeyBlocks::kBlock;
  for (int i = 0; i < dim / 2; ++i) {
    // Lagrange's identities: the mean of cos and sin over equal steps.
    const double step = rope.inv_freq[i], middle = step * (begin + (count - 1) / 2.0);
    const double spread = step != 0 ? std::sin(count * step / 2) / (count * std::sin(step / 2)) : 1;
    const auto c = static_cast<float>(spread * std::cos(middle) * rope.scale);
    const auto s = static_cast<float>(spread * std::sin(middle) * rope.scale);
    const bool half = rope.style == RopeStyle::kHalf;
    for (int b = 0; b < keys->num_blocks(); ++b) {
      float* x = keys->block(b) + (half ? i : 2 * i) * kBlock;
      float* y = keys->block(b) + (half ? i + dim / 2 : 2 * i + 1) * kBlock;
      for (int j = 0; j < kBlock; ++j) {
        const float old = x[j];
        x[j] = old * c + y[j] * s;
        y[j] = y[j] * c - old * s;
      }
    }
  }
}

// out[j] = sum over i, k of squares(i, k) * key_i * key_k, for the keys j of a block. `squares` is
// the lower triangle.
void QuadraticForm(const float* squares, const float* block, int dim, float* out) {
  constexpr int kBlock = KeyBlocks::kBlock;
  std::fill_n(out, kBlock, 0.0f);
  for (int i = 0; i < dim; ++i) {
    float row[kBlock] = {};
    for (int k = 0; k < i; ++k) {
      for (int j = 0; j < kBlock; ++j) row[j] += squares[k] * block[k * kBlock + j];
    }
    const float* key = block + i * kBlock;
    for (int j = 0; j < kBlock; ++j) out[j] += key[j] * (2 * row[j] + squares[i] * key[j]);
    squares += i + 1;
  }
}

void ScoreExpectedAttention(const HeadAtBoundary& h) {
  constexpr int kBlock = KeyBlocks::kBlock;
  const QueryScoring& q = h.p.queries;
  const int d = h.kv.head_dim, group = q.num_q_heads / h.kv.num_kv_heads;
  const int num_queries = q.chunk - (h.s.boundary == q.chunk ? q.sinks : 0);
  const float scale = 1.0f / std::sqrt(static_cast<float>(d));
  const float square_scale = scale * scale / 2 / static_cast<float>(num_queries);
  KeyBlocks keys(h.kv, h.tokens, h.first, h.length);
  RotateKeys(h.p.rope, h.s.boundary, q.future_positions, d, &keys);
  const auto count = static_cast<size_t>(h.length - h.first);
  std::vector<float> logits(keys.size());
  std::vector<double> attention(count);
  const int floats = d + (q.use_covariance ? d * (d + 1) / 2 : 0);
  for (int i = 0; i < group; ++i) {
    const float* mean = h.State(h.head) + i * floats;
    keys.Dot(mean, h.length, logits.data());
    for (int b = 0; b < keys.num_blocks(); ++b) {
      float squares[kBlock] = {};
      if (q.use_covariance) QuadraticForm(mean + d, keys.block(b), d, squares);
      float* logit = logits.data() + static_cast<ptrdiff_t>(b) * kBlock;
      for (int j = 0; j < kBlock; ++j) logit[j] = logit[j] * scale + squares[j] * square_scale;
    }
    const double largest =
        *std::max_element(logits.begin(), logits.begin() + static_cast<ptrdiff_t>(count));
    double sum = 0;
    for (size_t t = 0; t < count; ++t) sum += std::exp(logits[t] - largest);
    for (size_t t = 0; t < count; ++t) {
      attention[t] += std::exp(logits[t] - largest) / (sum * group);
    }
  }
  std::vector<float> value(static_cast<size_t>(d));
  for (int t = h.first; t < h.last; ++t) {
    const double score = attention[static_cast<size_t>(t - h.first)];
    LoadValue(h.kv, h.tokens, t, value.data());
    h.Set(t, q.use_value_norm ? (score + q.epsilon) * Norm(value) : score);
  }
}

}  // namespace

void ScoreHead(const ScoreParams& p, const BoundarySpan& s, int layer, int head) {
  const HeadAtBoundary h{p, s, layer, head};
  switch (p.method) {
    case ScoreMethod::kKeyDiff:
      return ScoreKeyDiff(h);
    case ScoreMethod::kStreamingLlm:
      for (int t = h.first; t < h.last; ++t) h.Set(t, t);
      return;
    case ScoreMethod::kSnapKv:
      return ScoreSnapKv(h);
    case ScoreMethod::kTova:
      return ScoreTova(h);
    case ScoreMethod::kExpectedAttention:
      return ScoreExpectedAttention(h);
  }
}

}  // namespace tangram::ops
