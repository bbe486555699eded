#pragma once

#include "ops/kv_element.h"
#include "ops/kv_view.h"

namespace tangram::ops {

// The tokens of one head of one sequence, by their index in the row.
class HeadTokens {
 public:
  HeadTokens(const KvPoolView& pool, const PageTableView& pages, const LayerHeadMap& heads,
             int slot, int head)
      : pool_(pool),
        ids_(pages.ids +
             (int64_t{slot} * pages.num_rows + heads.row[head]) * pages.max_pages_per_row),
        column_(heads.column[head]) {}

  int64_t virtual_page(int token) const {
    return int64_t{ids_[token / pool_.page_size]} * pool_.group_size + column_;
  }
  int offset(int token) const { return token % pool_.page_size; }
  int64_t score_index(int token) const {
    return virtual_page(token) * pool_.page_size + offset(token);
  }
  // First element of the virtual page's K block; its V block is `block()` behind.
  int64_t keys(int token) const { return virtual_page(token) * 2 * block(); }
  int64_t block() const { return int64_t{pool_.page_size} * pool_.head_dim; }

 private:
  const KvPoolView& pool_;
  const int32_t* ids_;
  int column_;
};

inline void LoadKey(const KvPoolView& pool, const HeadTokens& tokens, int token,
                    bool transposed_keys, float* key) {
  const int64_t base = tokens.keys(token), offset = tokens.offset(token);
  const int64_t first = transposed_keys ? offset : offset * pool.head_dim;
  const int64_t stride = transposed_keys ? pool.page_size : 1;
  for (int64_t i = 0; i < pool.head_dim; ++i) key[i] = LoadKv(pool, base + first + i * stride);
}

inline void LoadValue(const KvPoolView& pool, const HeadTokens& tokens, int token, float* value) {
  const int64_t base =
      tokens.keys(token) + tokens.block() + int64_t{tokens.offset(token)} * pool.head_dim;
  for (int64_t i = 0; i < pool.head_dim; ++i) value[i] = LoadKv(pool, base + i);
}

}  // namespace tangram::ops
