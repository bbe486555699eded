#include "ops/cuda/gemm/gemm.h"

#include <algorithm>

#include "base/check.h"
#include "ops/cuda/device.h"
#include "ops/cuda/gemm/gemm_stream.h"

namespace tangram::ops::cuda {

// Measured (docs/measurements.md). Fewer tokens ask for longer pieces of the weight's rows, more of
// them for fewer tiles, each of which reads the tokens again.
StreamConfigId ChooseStreamConfig(int m, int n) {
  const int share = (n - 1) / CurrentDevice().num_sms + 1;  // rows of a block
  if (m <= 8) return k16x512Even;
  if (m <= 16) {
    if (share <= 20 || (share > 40 && share <= 48)) return k16x512Even;
    return share <= 32 ? k32x256Even : k48x256Even;
  }
  if (m > 32 || share > 48) return k64x128;
  return share <= 32 ? k32x256Even : k48x128Even;
}

int EvenTileRows(int n, int most_rows) {
  const int blocks = CurrentDevice().num_sms;
  int best = 0, least = 0;  // its rows, and the busiest block's rows
  for (int tiles = (n - 1) / (blocks * most_rows) + 1;; ++tiles) {
    const int rows = (n - 1) / (blocks * tiles) + 1;
    if (best > 0 && 2 * rows <= most_rows) return best;
    if (best == 0 || 200 * rows * tiles < 199 * least) best = rows, least = rows * tiles;
    if (int64_t{100} * least * blocks < int64_t{101} * n) return best;
  }
}

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
  for (int row = 0; row < args.m; row += kStreamMaxTokens) {
    StreamLaunch part{args, workspace, options.dependent_launch, stream};
    part.args.m = std::min(args.m - row, kStreamMaxTokens);
    part.args.x += static_cast<int64_t>(row) * args.k;
    part.args.out_stride = out_stride;
    part.args.out += row * out_stride;
    const int chosen = options.invariant ? k64x128 : ChooseStreamConfig(part.args.m, args.n);
    const StreamConfig& config = StreamConfigs()[options.config >= 0 ? options.config : chosen];
    if (args.out_f32 != nullptr) part.args.out_f32 += static_cast<int64_t>(row) * args.f32_columns;
    if (config.most_rows > 0) part.even_rows = EvenTileRows(args.n, config.most_rows);
    TANGRAM_CHECK(config.launch(part, false), "tile {} takes fewer than {} rows", config.name,
                  part.args.m);
  }
}

}  // namespace tangram::ops::cuda
