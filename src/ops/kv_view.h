#pragma once

#include <cstdint>

#include "tensor/tensor.h"

namespace tangram::ops {

// How ops see the KV pages; symbols as in backend.h.

// The pages of all sequences as an op sees them. Element [v] of the pool is virtual page v =
// page*Hp + column: K block [B, d] ([d, B] where Backend::transposed_keys()), then V block [B, d],
// contiguous.
struct KvPoolView {
  void* data;
  DType dtype;
  int page_size;   // B
  int group_size;  // Hp
  int head_dim;    // d
  int64_t num_pages;
};

// Where each head of a layer lies: head h of the layer is column `column[h]` of row `row[h]`.
struct LayerHeadMap {
  const int32_t* row;     // [Hkv]
  const int32_t* column;  // [Hkv]
};

// Page ids of all slots: ids[(slot * num_rows + row) * max_pages_per_row + i].
struct PageTableView {
  const int32_t* ids;
  int num_rows;  // G
  int max_pages_per_row;
};

// Consecutive tokens of one sequence in a step. Before them a row holds `row_history[row]` tokens
// ([G]; the retained ones and those since the last boundary); the step's own come behind those.
struct SequenceSpan {
  int slot;
  int first_token;  // index into the step's T tokens
  int num_tokens;
  const int32_t* row_history;
  int since_boundary = -1;  // tokens between the last boundary and these, which do not go beyond
                            // the next one; -1: the sequence is never compressed
};

}  // namespace tangram::ops
