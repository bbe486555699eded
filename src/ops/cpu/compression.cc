#include "ops/cpu/compression.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "ops/cpu/head_tokens.h"

namespace tangram::ops {
namespace {

// Copies element (token, dimension) blocks of one token, keys and values, to another token's place.
void MoveToken(const KvView& kv, const HeadTokens& tokens, int from, int to) {
  const int64_t size = BlockBytes(kv.dtype);
  const int d = kv.head_dim, page_size = kv.page_size;
  auto* base = static_cast<std::byte*>(kv.pool);
  const auto copy = [&](int64_t source, int64_t target, int64_t count) {
    std::memcpy(base + target * size, base + source * size, static_cast<size_t>(count * size));
  };
  const int64_t keys_from = tokens.keys(from), keys_to = tokens.keys(to);
  const int offset_from = tokens.offset(from), offset_to = tokens.offset(to);
  for (int64_t i = 0; i < d; ++i) {
    copy(keys_from + i * page_size + offset_from, keys_to + i * page_size + offset_to, 1);
  }
  copy(keys_from + tokens.block() + int64_t{offset_from} * d,
       keys_to + tokens.block() + int64_t{offset_to} * d, d);
}

// The `count` best of the candidates [first, last), ascending. On ties the later token is better.
std::vector<int> SelectBest(const float* pool_scores, const HeadTokens& tokens, int first, int last,
                            int count) {
  struct Candidate {
    float score;
    int token;
  };
  std::vector<Candidate> candidates;
  candidates.reserve(static_cast<size_t>(last - first));
  for (int t = first; t < last; ++t) candidates.push_back({pool_scores[tokens.score_index(t)], t});
  std::ranges::nth_element(candidates, candidates.begin() + count,
                           [](const Candidate& a, const Candidate& b) {
                             return a.score != b.score ? a.score > b.score : a.token > b.token;
                           });
  std::vector<int> best;
  for (int i = 0; i < count; ++i) best.push_back(candidates[static_cast<size_t>(i)].token);
  std::ranges::sort(best);
  return best;
}

}  // namespace

RowAtBoundary RowOf(const KvView& kv, const BoundarySpan& s, int group, int window, int sinks) {
  const int k = s.boundary / kv.retention.chunk;
  const int before = Retained(kv.retention, s.retention, group, k - 1);
  return {k == 1 ? sinks : before - window, before + kv.retention.chunk,
          Retained(kv.retention, s.retention, group, k)};
}

void CompactHead(const CompactParams& p, const BoundarySpan& s, int layer, int head) {
  const KvView& kv = p.at.kv();
  const HeadTokens tokens(kv, layer, s.slot, head);
  const int group = kv.heads.group[layer * kv.num_kv_heads + head];
  const auto [first, length, kept] = RowOf(kv, s, group, p.window, p.sinks);
  const int window_begin = length - p.window;
  TANGRAM_CHECK(first <= window_begin && kept - p.window >= first && kept <= length,
                "group {}: protected {}, length {}, kept {}, window {}", group, first, length, kept,
                p.window);
  int to = first;
  const auto move = [&](int from) {
    if (from != to) {
      MoveToken(kv, tokens, from, to);
      p.pool_scores[tokens.score_index(to)] = p.pool_scores[tokens.score_index(from)];
    }
    ++to;
  };
  // Ascending, so a source is never in front of its target and nothing is overwritten unread.
  const int count = kept - p.window - first;
  for (int t : SelectBest(p.pool_scores, tokens, first, window_begin, count)) move(t);
  for (int t = window_begin; t < length; ++t) move(t);
}

void AppendScoresOf(const AppendParams& p, const SequenceSpan& s, int head) {
  const HeadTokens tokens(p.at.kv(), p.at.layer, s.slot, head);
  const int64_t num_heads = p.new_scores.shape[1];
  const int history = p.at.History(s, p.at.group(head));
  for (int i = 0; i < s.num_tokens; ++i) {
    p.pool_scores[tokens.score_index(history + i)] =
        p.new_scores.as<float>()[(s.first_token + i) * num_heads + head];
  }
}

void AppendScoresOf(const AppendScoresParams& p, int head) {
  const KvView& kv = p.step->kv;
  const HeadTokens tokens(kv, p.layer, p.boundary.slot, head);
  const int64_t num_heads = p.scores.shape[1];
  const int chunk = kv.retention.chunk, group = kv.heads.group[p.layer * kv.num_kv_heads + head];
  const int history =
      Retained(kv.retention, p.boundary.retention, group, p.boundary.boundary / chunk - 1);
  for (int i = 0; i < chunk; ++i) {
    p.pool_scores[tokens.score_index(history + i)] = p.scores.as<float>()[i * num_heads + head];
  }
}

}  // namespace tangram::ops
