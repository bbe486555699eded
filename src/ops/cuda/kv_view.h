#pragma once

#include <cstdint>

#include "tensor/dtype.h"

namespace tangram::ops::cuda {

// The structs that kernels share. All pointers are device memory. Symbols as in ops/backend.h: T
// tokens of the step, L layers, Hq and Hkv query and KV heads, g = Hq/Hkv, d head_dim, B tokens of
// a page, Hp columns, G rows.

constexpr int kPageTokens = 16;  // B, for every KV type

// The pages, and where each row's and head's lie. Virtual page v = page*Hp + column holds K [B, d],
// then V [B, d]. fp8 has no scale: what is beyond 448 is stored as 448.
struct KvView {
  void* pool;
  DType dtype;  // kBF16 or kF8E4M3
  int head_dim;
  int group_size;  // Hp
  int64_t num_pages;
  const int32_t* page_table;  // [slots][G][max_pages_per_row] page ids
  int num_rows;               // G
  int max_pages_per_row;
  const int32_t* head_row;     // [L][Hkv] row of each head
  const int32_t* head_column;  // [L][Hkv]
};

// Row lengths without a copy of them: with n tokens in a sequence, its current token included, and
// b the last boundary before it, length(row, n) = retained(row, b) + (n - b), b = C*floor((n-1)/C).
struct RetainedTables {
  const int32_t* retained;  // [tables][boundaries][G]; boundary k is position k*C; all 0 at k=0
  int num_boundaries;
  int num_rows;  // G
  int chunk;     // C
};

// The sequences of a decode step, one token each. What they point to changes between replays of a
// graph, the pointers don't; tokens of a bucket that nobody uses have num_tokens 0.
struct DecodeBatch {
  int size;                   // T
  const int32_t* slot;        // [T] row block of the page table
  const int32_t* num_tokens;  // [T] n, this step's token included; 0: unused
  const int32_t* table;       // [T] which retained table
};

}  // namespace tangram::ops::cuda
