#include <algorithm>
#include <cstdio>
#include <random>

#include "bench/cuda/bench.h"
#include "bench/cuda/decode_case.h"
#include "ops/cuda/compress.h"

namespace tangram::bench {
namespace {

using ops::cuda::DeviceArray;
using ops::cuda::kPageTokens;

constexpr double kRatio = 0.3;
constexpr int kWindow = 32, kSinks = 4;

// One sequence of Llama-3.1-8B's shape at the boundary `context`, rows between 0.1 and 0.5 of it.
void BenchChunk(int chunk, int context, DType dtype, const Ceilings& ceilings) {
  const DecodeShape shape{32, 32, 8, 128, 4, dtype};
  DecodeLoad load{{context}, {}, chunk};
  for (int k = 0; k <= context / chunk; ++k) {
    for (int row = 0; row < shape.num_rows(); ++row) {
      const double share = kRatio + 0.4 * (row / (shape.num_rows() - 1.0) - 0.5);
      const int tokens = static_cast<int>(share * k * chunk) / kPageTokens * kPageTokens;
      load.retained.push_back(k == 0 ? 0 : std::max(tokens, 48));
    }
  }
  const DecodeCase c(shape, load, {}, ops::cuda::SplitMode::kEqualRanges, 132, false, 1);
  std::mt19937 random(1);
  std::vector<float> host(c.num_virtual_pages() * kPageTokens);
  for (float& score : host) score = static_cast<float>(random());
  DeviceArray<float> scores(host);
  const DeviceArray<int32_t> boundary(std::vector<int32_t>{context / chunk});
  const auto plan = c.plan_params();
  const ops::cuda::CompressParams params{{1, plan.batch.slot, boundary.data(), plan.batch.table},
                                         plan.tables,
                                         c.attention_params(0).kv,
                                         scores.data(),
                                         shape.kv_heads,
                                         0,
                                         shape.layers,
                                         kWindow,
                                         kSinks};
  const float keydiff = MedianMicroseconds(
      5, 9, [&](int, cudaStream_t stream) { ops::cuda::RunScoreKeyDiff(params, stream); });
  // What a run has moved, the next does not: the scores are dealt anew before each.
  std::vector<float> times;
  for (int i = 0; i < 7; ++i) {
    std::shuffle(host.begin(), host.end(), random);
    scores.Upload(host);
    times.push_back(MedianMicroseconds(
        0, 1, [&](int, cudaStream_t stream) { ops::cuda::RunSelectAndCompact(params, stream); }));
  }
  std::nth_element(times.begin(), times.begin() + 3, times.end());
  const double token_bytes = 2.0 * shape.head_dim * BytesFor(dtype, 1);
  const double heads = shape.layers * shape.kv_heads;
  const double moved = 2 * kRatio * chunk * token_bytes * heads;
  const double keys = chunk * token_bytes / 2 * heads;
  std::printf(
      "compress, %-8s chunk %5d at %6d, 32 layers: keydiff %7.1f us (keys once %6.1f MB: %.2f "
      "TB/s), select and "
      "compact %7.1f us (%6.1f MB moved: %.2f TB/s; copy %.2f)\n",
      std::string(DTypeName(dtype)).c_str(), chunk, context, keydiff, 1e-6 * keys,
      1e-6 * keys / keydiff, times[3], 1e-6 * moved, 1e-6 * moved / times[3], ceilings.copy);
}

void BenchCompress(const std::vector<std::string>&) {
  const Ceilings ceilings = MeasureCeilings();
  for (DType dtype : {DType::kBF16, DType::kF8E4M3}) {
    for (int chunk : {256, 1024, 2048, 8192}) BenchChunk(chunk, 32768, dtype, ceilings);
    BenchChunk(8192, 8192, dtype, ceilings);
  }
}

constexpr Benchmark kBenchmarks[] = {
    {"compress", "scoring, selection and compaction at a boundary, all layers", BenchCompress},
};

}  // namespace

std::span<const Benchmark> CompressBenchmarks() { return kBenchmarks; }

}  // namespace tangram::bench
