#include "ops/cuda/gemm.h"

#include <algorithm>

#include "base/check.h"
#include "ops/cuda/device.h"
#include "ops/cuda/gemm_stream.h"

namespace tangram::ops::cuda {
namespace {

// How much longer the busiest block takes than the mean, if `blocks` take whole tiles.
double Unevenness(int tiles, int blocks) {
  const int most = (tiles + blocks - 1) / blocks;
  return static_cast<double>(most) * blocks / tiles;
}

}  // namespace

// The bounds are measured (docs/measurements.md).
StreamConfigId ChooseStreamConfig(int m, int n) {
  const int blocks = CurrentDevice().num_sms;
  const int tiles16 = (n + 15) / 16, tiles32 = (n + 31) / 32;
  if (m > 32) return k64x128;
  const bool one_tile_each = tiles32 <= blocks && Unevenness(tiles32, blocks) < 1.2;
  if (m > 16) return one_tile_each ? k32x256Whole : k64x128;
  if (tiles16 <= 3 * blocks && Unevenness(tiles16, blocks) < 1.04) return k16x512Whole;
  if (one_tile_each || Unevenness(tiles32, blocks) < 1.01) return k32x256Whole;
  return tiles32 < blocks ? k16x512 : k32x256;
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
    TANGRAM_CHECK(config.launch(&part, part.args.m), "tile {} takes fewer than {} rows",
                  config.name, part.args.m);
  }
}

}  // namespace tangram::ops::cuda
