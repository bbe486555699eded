#pragma once

#include <cstdint>

namespace tangram::ops {

// How many tokens each head group retains at each boundary, for all ratios that are served.
// Boundary k is position k*C; at k = 0 nothing was retained. Memory of the backend.
struct RetentionView {
  const int32_t* retained;  // [retentions][boundaries][G]
  int num_boundaries;
  int num_groups;  // G
  int chunk;       // C
};

// Tokens that the group retains after compression at boundary `k`.
constexpr int Retained(const RetentionView& view, int retention, int group, int k) {
  return view.retained[(int64_t{retention} * view.num_boundaries + k) * view.num_groups + group];
}

// length(group, n): what the attention of token n - 1 reads, itself included
// (docs/design/architecture.md).
constexpr int RowLength(const RetentionView& view, int retention, int group, int n) {
  if (n <= 0) return 0;
  const int k = (n - 1) / view.chunk;
  return Retained(view, retention, group, k) + (n - k * view.chunk);
}

}  // namespace tangram::ops
