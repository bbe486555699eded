#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace tangram {

// Which group and which column of its pages each KV head of each layer has: G = L*Hkv/Hp groups of
// Hp heads.
class HeadGroupMap {
 public:
  // `order` lists all heads (layer * num_kv_heads + head) and is cut into runs of group_size, which
  // divides it.
  HeadGroupMap(int num_layers, int num_kv_heads, int group_size, std::span<const int32_t> order);
  // Heads in their natural order.
  static HeadGroupMap Natural(int num_layers, int num_kv_heads, int group_size);
  // `wanted`, or the largest divisor of num_heads below it.
  static int ValidGroupSize(int num_heads, int wanted);

  int num_layers() const { return num_layers_; }
  int num_kv_heads() const { return num_kv_heads_; }
  int group_size() const { return group_size_; }
  int num_groups() const { return num_layers_ * num_kv_heads_ / group_size_; }
  // [Hkv] of a layer.
  std::span<const int32_t> groups(int layer) const;
  std::span<const int32_t> columns(int layer) const;

 private:
  int num_layers_, num_kv_heads_, group_size_;
  std::vector<int32_t> group_, column_;  // [L * Hkv]
};

}  // namespace tangram
