#pragma once

#include <cstdint>

#include "ops/row_length.h"
#include "tensor/dtype.h"

namespace tangram::ops {

// Where each KV head lies: head h of layer l is column `column[l*Hkv + h]` of the pages of group
// `group[l*Hkv + h]`.
struct HeadMapView {
  const int32_t* group;   // [L][Hkv]
  const int32_t* column;  // [L][Hkv]
};

// The KV cache as ops see it; symbols as in backend.h. Memory of the backend, but for `host_heads`
// and `host_retention`: the same in host memory, for plans that are made there.
struct KvView {
  // Element [v] of the pool is virtual page v = page*Hp + column: K block [B, d] ([d, B] where
  // Backend::transposed_keys()), then V block [B, d], contiguous.
  void* pool;
  DType dtype;
  int page_size;   // B
  int group_size;  // Hp
  int head_dim;    // d
  int64_t num_pages;
  int32_t* page_table;  // [slots][G][max_pages] page ids
  int num_groups;       // G
  int max_pages;        // of a group of a slot
  int num_layers;       // L
  int num_kv_heads;     // Hkv of a layer
  int num_q_heads;      // Hq of a layer: plans of attention are made ahead of it
  HeadMapView heads, host_heads;
  RetentionView retention, host_retention;

  // First entry of a group's pages in the page table.
  int64_t Place(int slot, int group) const {
    return (int64_t{slot} * num_groups + group) * max_pages;
  }
  int64_t page_bytes() const {
    return static_cast<int64_t>(BytesFor(dtype, int64_t{2} * group_size * page_size * head_dim));
  }
};

}  // namespace tangram::ops
