#include <algorithm>
#include <cmath>
#include <cstdio>
#include <random>

#include "bench/cuda/bench.h"
#include "bench/cuda/decode_case.h"
#include "ops/cuda/score_queries.h"

// `bench compress`: scoring, selection and compaction of one sequence of Llama-3.1-8B's shape at a
// boundary, all layers in a launch, as in decode.

namespace tangram::bench {
namespace {

using namespace ops::cuda;

constexpr double kRatio = 0.3;
constexpr int kWindow = 32, kSinks = 4, kQueryWindow = 32;

// Rows between 0.1 and 0.5 of the sequence, which stands at the boundary `context`.
DecodeLoad SpreadLoad(const DecodeShape& shape, int chunk, int context) {
  DecodeLoad load{{context}, {}, chunk};
  for (int k = 0; k <= context / chunk; ++k) {
    for (int row = 0; row < shape.num_rows(); ++row) {
      const double share = kRatio + 0.4 * (row / (shape.num_rows() - 1.0) - 0.5);
      const int tokens = static_cast<int>(share * k * chunk) / kPageTokens * kPageTokens;
      load.retained.push_back(k == 0 ? 0 : std::max(tokens, 48));
    }
  }
  return load;
}

class CompressBench {
 public:
  CompressBench(int chunk, int context, DType dtype)
      : shape_{32, 32, 8, 128, 4, dtype},
        chunk_(chunk),
        context_(context),
        case_(shape_, SpreadLoad(shape_, chunk, context), {}, SplitMode::kEqualRanges, 132, false,
              1),
        scores_(case_.num_virtual_pages() * kPageTokens),
        boundary_(std::vector<int32_t>{context / chunk}),
        inv_freq_(std::vector<float>(shape_.head_dim / 2, 0.01f)) {
    std::mt19937 random(1);
    host_scores_.resize(scores_.size());
    for (float& score : host_scores_) score = static_cast<float>(random());
    std::vector<__nv_bfloat16> queries(size_t{1} << 22);
    std::normal_distribution<float> normal;
    for (auto& q : queries) q = __float2bfloat16(normal(random));
    queries_ = DeviceArray<__nv_bfloat16>(size_t{1} * shape_.layers * chunk * shape_.q_heads *
                                          shape_.head_dim);
    for (size_t at = 0; at < queries_.size(); at += queries.size()) {
      TANGRAM_CUDA_CHECK(cudaMemcpy(queries_.data() + at, queries.data(),
                                    2 * std::min(queries.size(), queries_.size() - at),
                                    cudaMemcpyHostToDevice));
    }
  }

  void Report(const Ceilings& ceilings) {
    const double token_bytes = 2.0 * shape_.head_dim * BytesFor(shape_.dtype, 1);
    const double heads = shape_.layers * shape_.kv_heads;
    const double keys = chunk_ * token_bytes / 2 * heads;
    const double rate = shape_.dtype == DType::kBF16 ? ceilings.random_8k : ceilings.random_4k;
    std::printf("compress, %s, chunk %d at %d, 32 layers\n",
                std::string(DTypeName(shape_.dtype)).c_str(), chunk_, context_);
    auto report = [&](const char* name, float us, double bytes, double ceiling) {
      std::printf("  %-22s %8.1f us  %7.1f MB: %5.2f TB/s, %3.0f%% of %s\n", name, us, 1e-6 * bytes,
                  1e-6 * bytes / us, 100e-6 * bytes / us / ceiling,
                  ceiling == rate ? "random reads" : "copy");
    };
    double row_keys =
        0;  // the whole rows', for the mean or the denominators; the candidates' again
    for (int layer = 0; layer < shape_.layers; ++layer) row_keys += case_.LayerBytes(layer) / 2;
    report("keydiff", Time([&](cudaStream_t s) { RunScoreKeyDiff(Rows(), s); }), row_keys + keys,
           rate);
    report("snapkv", Time(AttentionScore(kQueryWindow, AttentionPool::kMax, 7)), row_keys + keys,
           rate);
    report("tova", Time(AttentionScore(1, AttentionPool::kNone, 1)), row_keys + keys, rate);
    report("expected_attention", ExpectedMicroseconds(), 2 * keys + 2.0 * queries_.size(), rate);
    report("select and compact", CompactMicroseconds(), 2 * kRatio * chunk_ * token_bytes * heads,
           ceilings.copy);
  }

 private:
  CompressParams Rows() const {
    const auto plan = case_.plan_params();
    return {{1, plan.batch.slot, boundary_.data(), plan.batch.table},
            plan.tables,
            case_.attention_params(0).kv,
            scores_.data(),
            shape_.kv_heads,
            0,
            shape_.layers,
            kWindow,
            kSinks};
  }
  template <class Launch>
  float Time(const Launch& launch) {
    return MedianMicroseconds(5, 9, [&](int, cudaStream_t stream) { launch(stream); });
  }
  std::function<void(cudaStream_t)> AttentionScore(int count, AttentionPool pool, int kernel) {
    AttentionScoreParams p{Rows(),
                           {queries_.data(), shape_.layers, shape_.q_heads, count},
                           1 / std::sqrt(128.0f),
                           pool,
                           kernel,
                           pool == AttentionPool::kNone,
                           case_.RowTokens(0, shape_.num_rows() - 1),
                           nullptr};
    scratch_ = DeviceArray<char>(AttentionScoreScratchBytes(p));
    p.scratch = scratch_.data();
    return [p](cudaStream_t stream) { RunScoreAttention(p, stream); };
  }
  float ExpectedMicroseconds() {
    ExpectedAttentionParams p{Rows(),
                              {queries_.data(), shape_.layers, shape_.q_heads, chunk_},
                              inv_freq_.data(),
                              1,
                              false,
                              true,
                              true,
                              512,
                              0.01f,
                              nullptr};
    scratch_ = DeviceArray<char>(ExpectedAttentionScratchBytes(p));
    p.scratch = scratch_.data();
    return Time([p](cudaStream_t stream) { RunScoreExpectedAttention(p, stream); });
  }
  // What a run has moved, the next does not: the scores are dealt anew before each.
  float CompactMicroseconds() {
    std::mt19937 random(2);
    std::vector<float> times;
    for (int i = 0; i < 7; ++i) {
      std::shuffle(host_scores_.begin(), host_scores_.end(), random);
      scores_.Upload(host_scores_);
      times.push_back(MedianMicroseconds(
          0, 1, [&](int, cudaStream_t stream) { RunSelectAndCompact(Rows(), stream); }));
    }
    std::nth_element(times.begin(), times.begin() + 3, times.end());
    return times[3];
  }

  DecodeShape shape_;
  int chunk_, context_;
  DecodeCase case_;
  DeviceArray<float> scores_;
  DeviceArray<int32_t> boundary_;
  DeviceArray<float> inv_freq_;
  std::vector<float> host_scores_;
  DeviceArray<__nv_bfloat16> queries_;
  DeviceArray<char> scratch_;
};

void BenchCompress(const std::vector<std::string>& args) {
  std::vector<int> chunks = {256, 512, 1024, 2048, 8192};
  if (!args.empty()) chunks = {std::atoi(args[0].c_str())};
  const Ceilings ceilings = MeasureCeilings();
  std::printf("# copy %.3f TB/s, random 8 KiB %.3f, random 4 KiB %.3f\n", ceilings.copy,
              ceilings.random_8k, ceilings.random_4k);
  for (DType dtype : {DType::kBF16, DType::kF8E4M3}) {
    for (int chunk : chunks) CompressBench(chunk, 32768, dtype).Report(ceilings);
  }
}

constexpr Benchmark kBenchmarks[] = {
    {"compress", "[CHUNK]: scoring, selection and compaction at a boundary, all layers",
     BenchCompress},
};

}  // namespace

std::span<const Benchmark> CompressBenchmarks() { return kBenchmarks; }

}  // namespace tangram::bench
