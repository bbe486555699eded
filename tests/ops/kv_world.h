#pragma once

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
  KvWorld(Backend& backend, const KvWorldShape& shape, uint64_t seed);

  const KvWorldShape& shape() const { return shape_; }
  int num_tokens() const { return num_tokens_; }
  int num_q_heads() const { return shape_.num_kv_heads * shape_.q_per_kv; }
  int64_t qkv_width() const {
    return int64_t{num_q_heads() + 2 * shape_.num_kv_heads} * shape_.head_dim;
  }
  KvPoolView pool() const;
  PageTableView pages() const { return {ids_.data(), num_rows_, pages_a_row_}; }
  LayerHeadMap heads() const { return {rows_.data(), columns_.data()}; }
  const std::vector<SequenceSpan>& sequences() const { return sequences_; }
  std::vector<int32_t> positions() const;

  // Element `dim` of the key or value at `index` of a sequence's row under `head`.
  float Get(int sequence, int head, int index, bool value, int dim) const;
  void Set(int sequence, int head, int index, bool value, int dim, float to);
  int history(int sequence, int head) const { return history_[sequence][rows_[head]]; }
  // Writes K and V of the step's tokens as `qkv` has them: what Append does, but for norm and
  // rotation.
  void AppendPlain(const std::vector<float>& qkv);
  // All pages' bits.
  std::vector<uint8_t> Bytes() const;

 private:
  int64_t Index(int sequence, int head, int index, bool value, int dim) const;

  KvWorldShape shape_;
  bool transposed_;
  int num_rows_, pages_a_row_, num_tokens_ = 0;
  int64_t num_pages_;
  Buffer pool_;
  std::vector<int32_t> ids_, rows_, columns_;
  std::vector<std::vector<int32_t>> history_;  // [sequence][row]
  std::vector<SequenceSpan> sequences_;
};

}  // namespace tangram::ops
