#pragma once

#include "ops/cuda/kv_view.h"

namespace tangram::ops::cuda {

// length(row, n) of docs/design/architecture.md: what the attention of token n-1 reads.
__host__ __device__ inline int RowLength(const RetainedTables& tables, int table, int row, int n) {
  if (n <= 0) return 0;
  const int boundary = (n - 1) / tables.chunk;
  const int64_t index =
      (static_cast<int64_t>(table) * tables.num_boundaries + boundary) * tables.num_rows + row;
  return tables.retained[index] + (n - boundary * tables.chunk);
}

}  // namespace tangram::ops::cuda
