#include "paging/head_group_map.h"

#include <algorithm>
#include <numeric>

#include "base/check.h"

namespace tangram {

HeadGroupMap::HeadGroupMap(int num_layers, int num_kv_heads, int group_size,
                           std::span<const int32_t> order)
    : num_layers_(num_layers),
      num_kv_heads_(num_kv_heads),
      group_size_(group_size),
      group_(order.size(), -1),
      column_(order.size()) {
  const int num_heads = num_layers * num_kv_heads;
  TANGRAM_CHECK(static_cast<int>(order.size()) == num_heads && num_heads % group_size == 0,
                "{} heads in order of {}, groups of {}", order.size(), num_heads, group_size);
  for (int i = 0; i < num_heads; ++i) {
    const int32_t head = order[i];
    TANGRAM_CHECK(head >= 0 && head < num_heads && group_[head] < 0, "head {} at {}", head, i);
    group_[head] = i / group_size;
    column_[head] = i % group_size;
  }
}

HeadGroupMap HeadGroupMap::Natural(int num_layers, int num_kv_heads, int group_size) {
  std::vector<int32_t> order(num_layers * num_kv_heads);
  std::iota(order.begin(), order.end(), 0);
  return HeadGroupMap(num_layers, num_kv_heads, group_size, order);
}

int HeadGroupMap::ValidGroupSize(int num_heads, int wanted) {
  int size = std::clamp(wanted, 1, num_heads);
  while (num_heads % size != 0) --size;
  return size;
}

std::span<const int32_t> HeadGroupMap::groups(int layer) const {
  return std::span(group_).subspan(layer * num_kv_heads_, num_kv_heads_);
}

std::span<const int32_t> HeadGroupMap::columns(int layer) const {
  return std::span(column_).subspan(layer * num_kv_heads_, num_kv_heads_);
}

}  // namespace tangram
