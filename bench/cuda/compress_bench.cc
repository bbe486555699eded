#include <algorithm>
#include <cmath>
#include <cstdio>
#include <random>

#include "bench/cuda/bench.h"
#include "bench/cuda/decode_case.h"
#include "ops/cuda/compress/score_queries.h"

// `bench compress`: what compression costs a sequence of Llama-3.1-8B's shape at a boundary.
// Scoring, selection and compaction are one launch for all layers, as in decode; what some scorers
// do as tokens come (keep queries, the gate of Fast KVzip) is a launch for each layer and the whole
// chunk. Launches go round among kCopies sequences, or other inputs, of 200 MB together at least.

namespace tangram::bench {
namespace {

using namespace ops::cuda;

constexpr double kRatio = 0.3;
constexpr int kWindow = 32, kSinks = 4, kQueryWindow = 32;
constexpr int kContext = 32768;
constexpr int kCopies = 8;
constexpr double kRotatedBytes = 200e6;
constexpr int kGateDim = 16, kGateSinks = 16;  // of Fast KVzip

// Rows between 0.1 and 0.5 of the sequences, which stand at the boundary `context`.
DecodeLoad SpreadLoad(const DecodeShape& shape, int chunk, int context) {
  DecodeLoad load{std::vector<int32_t>(kCopies, context), {}, chunk};
  for (int k = 0; k <= context / chunk; ++k) {
    for (int row = 0; row < shape.num_rows(); ++row) {
      const double share = kRatio + 0.4 * (row / (shape.num_rows() - 1.0) - 0.5);
      const int tokens = static_cast<int>(share * k * chunk) / kPageTokens * kPageTokens;
      load.retained.push_back(k == 0 ? 0 : std::max(tokens, 48));
    }
  }
  return load;
}

// Normal numbers, the same quarter of a million again and again.
template <class T>
DeviceArray<T> RandomArray(size_t size) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::vector<T> block(std::min(size, size_t{1} << 18));
  for (T& x : block) x = T(normal(random));
  DeviceArray<T> array(size);
  TANGRAM_CUDA_CHECK(
      cudaMemcpy(array.data(), block.data(), sizeof(T) * block.size(), cudaMemcpyHostToDevice));
  for (size_t filled = block.size(); filled < size; filled *= 2) {
    TANGRAM_CUDA_CHECK(cudaMemcpy(array.data() + filled, array.data(),
                                  sizeof(T) * std::min(filled, size - filled),
                                  cudaMemcpyDeviceToDevice));
  }
  return array;
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
        boundary_(std::vector<int32_t>(kCopies, context / chunk)),
        inv_freq_(std::vector<float>(shape_.head_dim / 2, 0.01f)),
        queries_(RandomArray<__nv_bfloat16>(size_t{kCopies} * shape_.layers * chunk *
                                            shape_.q_heads * shape_.head_dim)) {}

  void Report(const Ceilings& ceilings) {
    const double element = static_cast<double>(BytesFor(shape_.dtype, 1));
    const double token_bytes = 2.0 * shape_.head_dim * element;
    const double heads = shape_.layers * shape_.kv_heads;
    const double keys = chunk_ * token_bytes / 2 * heads;
    const double query = 2.0 * shape_.q_heads * shape_.head_dim;  // bytes, of a layer
    const double rate = shape_.dtype == DType::kBF16 ? ceilings.random_8k : ceilings.random_4k;
    std::printf("compress, %s, chunk %d at %d, 32 layers\n",
                std::string(DTypeName(shape_.dtype)).c_str(), chunk_, context_);
    auto report = [&](const char* name, float us, double bytes, double ceiling) {
      std::printf("  %-22s %8.1f us  %7.1f MB: %5.2f TB/s, %3.0f%% of %s\n", name, us, 1e-6 * bytes,
                  1e-6 * bytes / us, 100e-6 * bytes / us / ceiling,
                  ceiling == rate ? "random reads" : "copy");
      return us;
    };
    // The whole rows', for the mean or the denominators; the candidates' again.
    double row_keys = keys;
    for (int layer = 0; layer < shape_.layers; ++layer) {
      row_keys += case_.LayerBytes(layer) / 2 / kCopies;
    }
    const float keydiff =
        report("keydiff", Time([&](int i, cudaStream_t s) { RunScoreKeyDiff(Rows(i), s); }),
               row_keys, rate);
    const float streaming = report(
        "streamingllm", Time([&](int i, cudaStream_t s) { RunScoreStreamingLlm(Rows(i), s); }),
        4.0 * chunk_ * heads, ceilings.copy);
    const float snapkv = report(
        "snapkv", AttentionMicroseconds(kQueryWindow, AttentionPool::kMax, 7), row_keys, rate);
    const float tova =
        report("tova", AttentionMicroseconds(1, AttentionPool::kNone, 1), row_keys, rate);
    const float expected = report("expected_attention", ExpectedMicroseconds(),
                                  2 * keys + chunk_ * query * shape_.layers, rate);
    const auto keep = [&](const char* name, int count) {
      return report(name, KeepMicroseconds(count), 2 * query * count * shape_.layers,
                    ceilings.copy);
    };
    const float keep_window = keep("keep queries, 32", kQueryWindow);
    const float keep_last = keep("keep queries, 1", 1);
    const float keep_all = keep("keep queries, chunk", chunk_);
    const float gate =
        report("fastkvzip", FastKvzipMicroseconds(), GateBytes() * shape_.layers, ceilings.copy);
    const float compact = report("select and compact", CompactMicroseconds(),
                                 2 * kRatio * chunk_ * token_bytes * heads, ceilings.copy);
    std::printf(
        "  all of a boundary, us: gate %.1f, fastkvzip %.1f, keydiff %.1f, streamingllm %.1f, "
        "snapkv "
        "%.1f, tova %.1f, expected_attention %.1f\n",
        compact, gate + compact, keydiff + compact, streaming + compact,
        keep_window + snapkv + compact, keep_last + tova + compact, keep_all + expected + compact);
    std::fflush(stdout);
  }

 private:
  // Of the i-th launch.
  CompressParams Rows(int i) const {
    const auto plan = case_.plan_params();
    const int copy = i % kCopies;
    return {{1, plan.batch.slot + copy, boundary_.data() + copy, plan.batch.table + copy},
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
    return MedianMicroseconds(5, 9, launch);
  }
  // Of all layers, launched one by one as tokens come. `bytes`: that a launch reads of its own
  // input.
  template <class Launch>
  float TimeLayers(double bytes, const Launch& launch) {
    const double rounds = std::ceil(kRotatedBytes / (bytes * shape_.layers));
    const int links = shape_.layers * static_cast<int>(std::min(rounds, 24.0));
    return shape_.layers * GraphMicroseconds(links, 5, launch);
  }

  KeptQueries Kept(int count) const {
    return {queries_.data(), shape_.layers, shape_.q_heads, count};
  }
  float AttentionMicroseconds(int count, AttentionPool pool, int kernel) {
    AttentionScoreParams p{Rows(0),
                           Kept(count),
                           1 / std::sqrt(128.0f),
                           pool,
                           kernel,
                           pool == AttentionPool::kNone,
                           case_.RowTokens(0, shape_.num_rows() - 1),
                           nullptr};
    const DeviceArray<char> scratch(AttentionScoreScratchBytes(p));
    p.scratch = scratch.data();
    return Time([&](int i, cudaStream_t stream) {
      p.rows = Rows(i);
      RunScoreAttention(p, stream);
    });
  }
  float ExpectedMicroseconds() {
    ExpectedAttentionParams p{Rows(0), Kept(chunk_), inv_freq_.data(), 1, false, true, true,
                              512,     0.01f,        nullptr};
    const DeviceArray<char> scratch(ExpectedAttentionScratchBytes(p));
    p.scratch = scratch.data();
    return Time([&](int i, cudaStream_t stream) {
      p.rows = Rows(i);
      RunScoreExpectedAttention(p, stream);
    });
  }

  float KeepMicroseconds(int count) {
    const size_t row = shape_.qkv_width(), source = row * chunk_;
    const int sources = 1 + static_cast<int>(kRotatedBytes / (2.0 * source));
    const auto qkv = RandomArray<__nv_bfloat16>(sources * source);
    std::vector<int32_t> position, slot;
    for (int i = 0; i < kCopies * chunk_; ++i) {
      position.push_back(context_ - chunk_ + i % chunk_), slot.push_back(i / chunk_);
    }
    const DeviceArray<int32_t> positions(position), slots(slot);
    return TimeLayers(
        2.0 * count * shape_.q_heads * shape_.head_dim, [&](int i, cudaStream_t stream) {
          const int copy = i / shape_.layers % kCopies;
          RunKeepQueries({qkv.data() + i % sources * source, chunk_, shape_.kv_heads,
                          shape_.head_dim, positions.data(), slots.data() + copy * chunk_, chunk_,
                          i % shape_.layers, Kept(count)},
                         stream);
        });
  }

  int GateWidth() const { return shape_.kv_heads * (shape_.group() + 1) * kGateDim; }
  double GateBytes() const { return 4.0 * chunk_ * GateWidth(); }
  float FastKvzipMicroseconds() {
    const size_t source = size_t{1} * chunk_ * GateWidth();
    const int sources = 1 + static_cast<int>(kRotatedBytes / GateBytes());
    const auto projected = RandomArray<float>(sources * source);
    const auto base = RandomArray<float>(shape_.kv_heads * kGateSinks * kGateDim);
    const auto others = RandomArray<float>(std::max(kGateDim, shape_.q_heads));  // norms, biases
    const DeviceArray<float> scores(size_t{1} * chunk_ * shape_.kv_heads);
    return TimeLayers(GateBytes(), [&](int i, cudaStream_t stream) {
      RunFastKvzip({projected.data() + i % sources * source, chunk_, shape_.kv_heads,
                    shape_.group(), kGateDim, kGateSinks, others.data(), others.data(), base.data(),
                    others.data(), 1e-6f, scores.data()},
                   stream);
    });
  }

  // What a run has moved, the next does not: each copy is compressed once.
  float CompactMicroseconds() {
    std::mt19937 random(1);
    std::vector<float> scores(scores_.size());
    for (float& score : scores) score = static_cast<float>(random());
    scores_.Upload(scores);
    return MedianMicroseconds(
        1, kCopies - 1, [&](int i, cudaStream_t stream) { RunSelectAndCompact(Rows(i), stream); });
  }

  DecodeShape shape_;
  int chunk_, context_;
  DecodeCase case_;
  DeviceArray<float> scores_;
  DeviceArray<int32_t> boundary_;
  DeviceArray<float> inv_freq_;
  DeviceArray<__nv_bfloat16> queries_;
};

void BenchCompress(const std::vector<std::string>& args) {
  std::vector<int> chunks = {256, 512, 1024, 2048, 8192};
  if (!args.empty()) chunks = {ChunkArgument(args[0], kContext)};
  const Ceilings ceilings = MeasureCeilings();
  std::printf("# copy %.3f TB/s, random 8 KiB %.3f, random 4 KiB %.3f\n", ceilings.copy,
              ceilings.random_8k, ceilings.random_4k);
  for (DType dtype : {DType::kBF16, DType::kF8E4M3}) {
    for (int chunk : chunks) CompressBench(chunk, kContext, dtype).Report(ceilings);
  }
}

constexpr Benchmark kBenchmarks[] = {
    {"compress", "[CHUNK]: scoring, selection and compaction at a boundary, all layers",
     BenchCompress},
};

}  // namespace

std::span<const Benchmark> CompressBenchmarks() { return kBenchmarks; }

}  // namespace tangram::bench
