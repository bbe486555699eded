#include <algorithm>
#include <cmath>
#include <vector>

#include "ops/cpu/compression.h"
#include "ops/cpu/key_blocks.h"

namespace tangram::ops {
namespace {

int History(const StepQueries& step, int head) {
  return step.at.History(step.at.span(0), step.at.group(head));
}

// Calls visit(weights, length, sum) for each query of the head's group in turn: it pays the first
// `length` keys of the row attention of weights[t] / sum.
template <class Visit>
void ForQueries(const StepQueries& step, int head, const Visit& visit) {
  const SequenceSpan& s = step.at.span(0);
  const KvView& kv = step.at.kv();
  const HeadTokens tokens(kv, step.at.layer, s.slot, head);
  const int d = kv.head_dim, group = step.num_q_heads / kv.num_kv_heads;
  const int history = History(step, head);
  const KeyBlocks keys(kv, tokens, 0, history + s.num_tokens);
  std::vector<float> weights(keys.size());
  std::vector<float> query(static_cast<size_t>(d));
  const int64_t stride = int64_t{step.num_q_heads + 2 * kv.num_kv_heads} * d;
  for (int row = 0; row < s.num_tokens * group; ++row) {
    const float* from = step.qkv.as<float>() + (s.first_token + row / group) * stride +
                        (int64_t{head} * group + row % group) * d;
    for (int i = 0; i < d; ++i) query[static_cast<size_t>(i)] = from[i] * step.scale;
    const int length = history + row / group + 1;  // causal
    keys.Dot(query.data(), length, weights.data());
    const float maximum = *std::max_element(weights.begin(), weights.begin() + length);
    double sum = 0;
    for (int t = 0; t < length; ++t) {
      float& weight = weights[static_cast<size_t>(t)];
      weight = std::exp(weight - maximum);
      sum += weight;
    }
    visit(weights.data(), length, static_cast<float>(sum));
  }
}

}  // namespace

void MaxAttentionOf(const MaxAttentionParams& p, int head) {
  std::vector<float> largest(static_cast<size_t>(p.count));
  const int first = History(p.step, head) - p.count;
  ForQueries(p.step, head, [&](const float* weights, int, float sum) {
    for (int t = 0; t < p.count; ++t) {
      float& best = largest[static_cast<size_t>(t)];
      best = std::max(best, weights[first + t] / sum);
    }
  });
  for (int t = 0; t < p.count; ++t) {
    p.out[int64_t{t} * p.step.at.kv().num_kv_heads + head] = largest[static_cast<size_t>(t)];
  }
}

void SumAttentionOf(const SumAttentionParams& p, int head) {
  std::vector<double> sums(
      static_cast<size_t>(History(p.step, head) + p.step.at.span(0).num_tokens));
  ForQueries(p.step, head, [&](const float* weights, int length, float sum) {
    for (int t = 0; t < length - p.window; ++t) sums[static_cast<size_t>(t)] += weights[t] / sum;
  });
  for (size_t t = 0; t < sums.size(); ++t) {
    p.out[static_cast<ptrdiff_t>(t) * p.step.at.kv().num_kv_heads + head] +=
        static_cast<float>(sums[t]);
  }
}

}  // namespace tangram::ops
