#pragma once

#include <utility>
#include <vector>

#include "ops/op_test_support.h"

namespace tangram::ops {

struct KvWorldShape {
  DType dtype;
  int head_dim, page_size, group_size, num_kv_heads, q_per_kv;
  // For each sequence: tokens of its longest row before the step, tokens of the step. Other rows
  // are shorter, as compression leaves them.
  std::vector<std::pair<int, int>> sequences;
};

// A pool of scattered pages with the sequences' histories in it. Whatever no token may read is NaN:
// free pages, other layers' columns, and the slots behind a row's end. The same seed gives the same
// values on any backend.
class KvWorld {
 public:
  // Tokens between boundaries: no step is longer.
  static constexpr int kChunk = 1024;
  static constexpr int kBoundaries = 128;
  // Whose heads are looked at.
  static constexpr int kLayer = 1;

  KvWorld(Backend& backend, const KvWorldShape& shape, uint64_t seed);

  const KvWorldShape& shape() const { return shape_; }
  int num_tokens() const { return num_tokens_; }
  int num_q_heads() const { return shape_.num_kv_heads * shape_.q_per_kv; }
  int64_t qkv_width() const {
    return int64_t{num_q_heads() + 2 * shape_.num_kv_heads} * shape_.head_dim;
  }
  const KvView& kv() const { return kv_; }
  // Sequence s has just been compressed at boundary s + 1, and would hold the same at any other.
  const std::vector<SequenceSpan>& sequences() const { return sequences_; }
  // The round of a step of the spans, on any backend whose keys lie alike; until the next call.
  LayerRound Begin(Backend& backend, const std::vector<SequenceSpan>& spans);
  LayerRound Begin(Backend& backend) { return Begin(backend, sequences_); }

  // Element `dim` of the key or value at `index` of a sequence's row under `head`.
  float Get(int sequence, int head, int index, bool value, int dim) const;
  void Set(int sequence, int head, int index, bool value, int dim, float to);
  int history(int sequence, int head) const { return history_[sequence][groups_[Entry(head)]]; }
  // Writes K and V of the step's tokens as `qkv` has them: what Append does, but for norm and
  // rotation.
  void AppendPlain(const std::vector<float>& qkv);
  // All pages' bits.
  std::vector<uint8_t> Bytes() const;

 private:
  // Of a head of kLayer, in groups_ and columns_.
  int Entry(int head) const { return kLayer * shape_.num_kv_heads + head; }
  int64_t Index(int sequence, int head, int index, bool value, int dim) const;
  void DealHeads(Random& random);
  void DealPages(Backend& backend, Random& random);
  void FillHistory(int sequence, Random& random);
  void WriteRetention();

  KvWorldShape shape_;
  bool transposed_;
  int num_tokens_ = 0;
  KvView kv_{};
  Buffer pool_;
  std::vector<int32_t> page_table_, groups_, columns_, retained_;
  std::vector<std::vector<int32_t>> history_;  // [sequence][group]
  std::vector<SequenceSpan> sequences_;
  StepInput input_;
};

}  // namespace tangram::ops
