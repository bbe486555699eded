#pragma once

#include "ops/kv_element.h"
#include "ops/kv_view.h"

namespace tangram::ops {

// The tokens of one head of one sequence, by their index in the row.
class HeadTokens {
 public:
  HeadTokens(const KvView& kv, int layer, int slot, int head)
      : kv_(kv),
        ids_(kv.page_table + kv.Place(slot, kv.heads.group[layer * kv.num_kv_heads + head])),
        column_(kv.heads.column[layer * kv.num_kv_heads + head]) {}

  int64_t virtual_page(int token) const {
    return int64_t{ids_[token / kv_.page_size]} * kv_.group_size + column_;
  }
  int offset(int token) const { return token % kv_.page_size; }
  int64_t score_index(int token) const {
    return virtual_page(token) * kv_.page_size + offset(token);
  }
  // First element of the virtual page's K block, [d, B]; its V block, [B, d], is `block()` behind.
  int64_t keys(int token) const { return virtual_page(token) * 2 * block(); }
  int64_t block() const { return int64_t{kv_.page_size} * kv_.head_dim; }

 private:
  const KvView& kv_;
  const int32_t* ids_;
  int column_;
};

inline void LoadKey(const KvView& kv, const HeadTokens& tokens, int token, float* key) {
  const int64_t base = tokens.keys(token), offset = tokens.offset(token);
  for (int64_t i = 0; i < kv.head_dim; ++i) key[i] = LoadKv(kv, base + offset + i * kv.page_size);
}

inline void LoadValue(const KvView& kv, const HeadTokens& tokens, int token, float* value) {
  const int64_t base =
      tokens.keys(token) + tokens.block() + int64_t{tokens.offset(token)} * kv.head_dim;
  for (int64_t i = 0; i < kv.head_dim; ++i) value[i] = LoadKv(kv, base + i);
}

}  // namespace tangram::ops
