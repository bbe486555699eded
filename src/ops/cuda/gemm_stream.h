#pragma once

#include <span>

#include "ops/cuda/gemm.h"

// Between the streaming product's kernels and the choice among them; for gemm.cc, tests and
// benchmarks.

namespace tangram::ops::cuda {

inline constexpr int kStreamMaxTokens = 64;
inline constexpr int kStreamMaxTileRows = 128;
inline constexpr int kStreamMinTileRows = 16;

// Bytes of the counters at the workspace's start, for a weight of `n` rows and any tile.
constexpr size_t StreamCounterBytes(int n) {
  return (static_cast<size_t>(n) / kStreamMinTileRows + 1) * sizeof(int) / 1024 * 1024 + 2048;
}

struct StreamLaunch {
  MatMulArgs args;  // m <= kStreamMaxTokens
  StreamWorkspace workspace;
  bool dependent_launch;
  int trigger_bytes;
  cudaStream_t stream;
};

// A way to cut the product. `launch` runs it, or (with a null argument) only says whether its
// stages fit into shared memory for `m` tokens.
struct StreamConfig {
  const char* name;
  bool (*launch)(const StreamLaunch*, int m);
};
std::span<const StreamConfig> StreamConfigs();

}  // namespace tangram::ops::cuda
