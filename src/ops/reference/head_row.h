#pragma once

#include <vector>

#include "ops/kv_element.h"
#include "ops/kv_view.h"
#include "ops/step.h"

namespace tangram::ops::reference {

using Vector = std::vector<double>;

double Dot(const Vector& a, const Vector& b);
double Norm(const Vector& a);
void Softmax(Vector* logits);

// The tokens of one head of one sequence, by their index in the row.
class HeadRow {
 public:
  HeadRow(const KvView& kv, int layer, int slot, int head)
      : kv_(kv),
        slot_(slot),
        group_(kv.heads.group[layer * kv.num_kv_heads + head]),
        column_(kv.heads.column[layer * kv.num_kv_heads + head]) {}

  int group() const { return group_; }
  Vector Key(int token) const { return Load(KeyIndex(token)); }
  Vector Value(int token) const { return Load(ValueIndex(token)); }
  // Rounds to the pool's type.
  void Set(int token, const Vector& key, const Vector& value) const;
  // Where the token's score lies in the array beside the pool.
  int64_t ScoreIndex(int token) const {
    return VirtualPage(token) * kv_.page_size + token % kv_.page_size;
  }
  // softmax(scale * query . key) over the first `length` keys.
  Vector Attention(const float* query, double scale, int length) const;

 private:
  int64_t VirtualPage(int token) const {
    const int64_t entry = kv_.Place(slot_, group_) + token / kv_.page_size;
    return int64_t{kv_.page_table[entry]} * kv_.group_size + column_;
  }
  // First elements: a virtual page is its K block [B, d], then its V block [B, d].
  int64_t KeyIndex(int token) const {
    return (VirtualPage(token) * 2 * kv_.page_size + token % kv_.page_size) * kv_.head_dim;
  }
  int64_t ValueIndex(int token) const {
    return KeyIndex(token) + int64_t{kv_.page_size} * kv_.head_dim;
  }
  Vector Load(int64_t first) const;

  const KvView& kv_;
  int slot_, group_, column_;
};

}  // namespace tangram::ops::reference
