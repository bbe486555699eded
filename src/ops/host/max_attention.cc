#include <algorithm>
#include <cmath>
#include <vector>

#include "ops/host/compression.h"
#include "ops/host/head_tokens.h"

namespace tangram::ops {
namespace {

constexpr int kBlock = 64;  // keys that lie side by side, for the compiler's vector lanes

// The first `length` keys of a head as [blocks][d][kBlock].
std::vector<float> TransposedKeys(const KvPoolView& pool, const HeadTokens& tokens, int length,
                                  bool transposed_keys) {
  const int d = pool.head_dim, blocks = (length + kBlock - 1) / kBlock;
  std::vector<float> keys(static_cast<size_t>(blocks) * d * kBlock), key(static_cast<size_t>(d));
  for (int t = 0; t < length; ++t) {
    LoadKey(pool, tokens, t, transposed_keys, key.data());
    float* block = keys.data() + static_cast<ptrdiff_t>(t / kBlock) * d * kBlock + t % kBlock;
    for (int i = 0; i < d; ++i) block[i * kBlock] = key[static_cast<size_t>(i)];
  }
  return keys;
}

void DotBlock(const float* query, const float* block, int d, float* out) {
  float sum[kBlock] = {};
  for (int i = 0; i < d; ++i) {
    for (int j = 0; j < kBlock; ++j) sum[j] += query[i] * block[i * kBlock + j];
  }
  std::copy_n(sum, kBlock, out);
}

}  // namespace

void MaxAttentionOf(const MaxAttentionParams& p, int head, bool transposed_keys) {
  const SequenceSpan& s = p.sequence;
  const HeadTokens tokens(p.pool, p.pages, p.heads, s.slot, head);
  const int d = p.pool.head_dim, group = p.num_q_heads / p.num_kv_heads;
  const int history = s.row_history[p.heads.row[head]];
  const std::vector<float> keys =
      TransposedKeys(p.pool, tokens, history + s.num_tokens, transposed_keys);
  std::vector<float> logits(keys.size() / static_cast<size_t>(d)), query(static_cast<size_t>(d));
  std::vector<float> largest(static_cast<size_t>(p.count), -INFINITY);
  const int64_t stride = int64_t{p.num_q_heads + 2 * p.num_kv_heads} * d;
  for (int row = 0; row < s.num_tokens * group; ++row) {
    const float* from = p.qkv.as<float>() + (s.first_token + row / group) * stride +
                        (int64_t{head} * group + row % group) * d;
    for (int i = 0; i < d; ++i) query[static_cast<size_t>(i)] = from[i] * p.scale;
    const int length = history + row / group + 1;  // causal
    for (int t = 0; t < length; t += kBlock) {
      DotBlock(query.data(), keys.data() + static_cast<ptrdiff_t>(t) * d, d, logits.data() + t);
    }
    const float maximum = *std::max_element(logits.begin(), logits.begin() + length);
    double sum = 0;
    for (int t = 0; t < length; ++t) sum += std::exp(logits[static_cast<size_t>(t)] - maximum);
    const float log_sum = maximum + static_cast<float>(std::log(sum));
    for (int t = 0; t < p.count; ++t) {
      float& best = largest[static_cast<size_t>(t)];
      best = std::max(best, logits[static_cast<size_t>(p.first + t)] - log_sum);
    }
  }
  for (int t = 0; t < p.count; ++t) {
    p.out[int64_t{t} * p.num_kv_heads + head] = std::exp(largest[static_cast<size_t>(t)]);
  }
}

}  // namespace tangram::ops
