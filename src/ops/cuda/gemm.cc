#include "ops/cuda/gemm.h"

#include <algorithm>

#include "base/check.h"
#include "ops/cuda/device.h"
#include "ops/cuda/gemm_stream.h"

namespace tangram::ops::cuda {
namespace {

// Tile 0 takes any number of tokens; tile 1 reads longer pieces of fewer rows, and is faster as far
// as its stages fit (docs/measurements.md).
int ChooseConfig(const MatMulArgs& args, const StreamOptions& options) {
  if (options.config >= 0) return options.config;
  return options.invariant || args.m > 16 ? 0 : 1;
}

}  // namespace

size_t StreamWorkspaceBytes(int max_n, int multiprocessors) {
  // A counter for each 16 rows at most, rounded up to whole tiles.
  return StreamPartialBytes(multiprocessors) + (static_cast<size_t>(max_n) / 16 + 8) * sizeof(int);
}

void RunStreamMatMul(const MatMulArgs& args, const StreamWorkspace& workspace,
                     const StreamOptions& options, cudaStream_t stream) {
  TANGRAM_CHECK(args.k % 8 == 0 && args.f32_columns <= args.n, "M={} N={} K={}, {} in f32", args.m,
                args.n, args.k, args.f32_columns);
  TANGRAM_CHECK(StreamWorkspaceBytes(args.n, CurrentDevice().num_sms) <= workspace.bytes,
                "workspace of {} bytes for N={}", workspace.bytes, args.n);
  if (args.k % 64 != 0) return RunSimpleMatMul(args, stream);
  const int64_t out_stride = args.out_stride > 0 ? args.out_stride : args.n - args.f32_columns;
  const StreamConfig& config = StreamConfigs()[ChooseConfig(args, options)];
  for (int row = 0; row < args.m; row += kStreamMaxTokens) {
    StreamLaunch part{args, workspace, options.dependent_launch, stream};
    part.args.m = std::min(args.m - row, kStreamMaxTokens);
    part.args.x += static_cast<int64_t>(row) * args.k;
    part.args.out_stride = out_stride;
    part.args.out += row * out_stride;
    if (args.out_f32 != nullptr) part.args.out_f32 += static_cast<int64_t>(row) * args.f32_columns;
    TANGRAM_CHECK(config.launch(&part, part.args.m), "tile {} takes fewer than {} rows",
                  config.name, part.args.m);
  }
}

}  // namespace tangram::ops::cuda
