#pragma once

#include <span>

#include "ops/cuda/gemm/gemm.h"

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
  int even_rows = 0;
};

// A way to cut the product. `launch` runs it if its stages fit into shared memory for so many
// tokens, and says whether they do; with `dry` it only says it.
struct StreamConfig {
  const char* name;
  bool (*launch)(const StreamLaunch&, bool dry);
  int most_rows = 0;  // of an even tile, else 0
};
std::span<const StreamConfig> StreamConfigs();

// Weight rows by K elements of a unit; "even": tiles have as many rows, at most so many, as make
// the blocks' shares of whole tiles even. The first takes any number of tokens; the fewer rows, the
// longer pieces of each.
enum StreamConfigId { k64x128, k16x512Even, k32x256Even, k48x256Even, k48x128Even };
// The fastest for `m` rows of x and `n` of the weight, on the current device.
StreamConfigId ChooseStreamConfig(int m, int n);

// Rows of an even tile, at most `most_rows`: as few tiles a block as make the busiest block's share
// at most 1% larger than the mean, or else the most even ones.
int EvenTileRows(int n, int most_rows);

}  // namespace tangram::ops::cuda
