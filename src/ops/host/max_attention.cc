#include <algorithm>
#include <cmath>
#include <vector>

#include "ops/host/compression.h"
#include "ops/host/key_blocks.h"

namespace tangram::ops {

void MaxAttentionOf(const MaxAttentionParams& p, int head, bool transposed_keys) {
  const SequenceSpan& s = p.sequence;
  const HeadTokens tokens(p.pool, p.pages, p.heads, s.slot, head);
  const int d = p.pool.head_dim, group = p.num_q_heads / p.num_kv_heads;
  const int history = s.row_history[p.heads.row[head]];
  const KeyBlocks keys(p.pool, tokens, 0, history + s.num_tokens, transposed_keys);
  std::vector<float> logits(keys.size());
  std::vector<float> query(static_cast<size_t>(d));
  std::vector<float> largest(static_cast<size_t>(p.count), -INFINITY);
  const int64_t stride = int64_t{p.num_q_heads + 2 * p.num_kv_heads} * d;
  for (int row = 0; row < s.num_tokens * group; ++row) {
    const float* from = p.qkv.as<float>() + (s.first_token + row / group) * stride +
                        (int64_t{head} * group + row % group) * d;
    for (int i = 0; i < d; ++i) query[static_cast<size_t>(i)] = from[i] * p.scale;
    const int length = history + row / group + 1;  // causal
    keys.Dot(query.data(), length, logits.data());
    const float maximum = *std::max_element(logits.begin(), logits.begin() + length);
    double sum = 0;
    for (int t = 0; t < length; ++t) sum += std::exp(logits[static_cast<size_t>(t)] - maximum);
    const float log_sum = maximum + static_cast<float>(std::log(sum));
    const float* repeated = logits.data() + history - p.count;
    for (int t = 0; t < p.count; ++t) {
      float& best = largest[static_cast<size_t>(t)];
      best = std::max(best, repeated[t] - log_sum);
    }
  }
  for (int t = 0; t < p.count; ++t) {
    p.out[int64_t{t} * p.num_kv_heads + head] = std::exp(largest[static_cast<size_t>(t)]);
  }
}

}  // namespace tangram::ops
