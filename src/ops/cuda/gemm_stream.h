#pragma once

#include <span>

#include "ops/cuda/gemm.h"

// Between the streaming product's kernels and the choice among them; for gemm.cc, tests and
// benchmarks.

namespace tangram::ops::cuda {

inline constexpr int kStreamMaxTokens = 64;
inline constexpr int kStreamMaxTileRows = 64;

// The workspace: a partial sum for each block, then the tiles' counters. Where the counters lie
// must not depend on the shape.
constexpr size_t StreamPartialBytes(int multiprocessors) {
  return size_t{4} * multiprocessors * kStreamMaxTileRows * kStreamMaxTokens;
}

struct StreamLaunch {
  MatMulArgs args;  // m <= kStreamMaxTokens
  StreamWorkspace workspace;
  bool dependent_launch;
  cudaStream_t stream;
};

// A way to cut the product. `launch` runs it, or (with a null argument) only says whether its
// stages fit into shared memory for `m` tokens.
struct StreamConfig {
  const char* name;
  bool (*launch)(const StreamLaunch*, int m);
};
std::span<const StreamConfig> StreamConfigs();

// Weight rows by K elements of a unit; "whole": no tile is shared by several blocks.
// The first takes any number of tokens, the others read longer pieces of fewer rows.
enum StreamConfigId { k64x128, k32x256, k32x256Whole, k16x512, k16x512Whole };
// The fastest for `m` rows of x and `n` of the weight, on the current device.
StreamConfigId ChooseStreamConfig(int m, int n);

}  // namespace tangram::ops::cuda
