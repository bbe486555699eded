#include <algorithm>
#include <cstdio>
#include <random>

#include "bench/cuda/bench.h"
#include "bench/cuda/decode_case.h"
#include "ops/cuda/attention/prefill.h"
#include "ops/cuda/compress/compress.h"
#include "ops/cuda/device.h"
#include "ops/cuda/step/append.h"

// `bench chain`: a prefill step of 8192 tokens of one sequence behind 24k others, as the server
// runs it: in each layer, chunk by chunk, append, attention over what was kept and the chunk,
// scores, selection and compaction. With the default chunk, 512, that is 16 boundaries in a layer;
// with a chunk of 8192, one.

namespace tangram::bench {
namespace {

using namespace ops::cuda;

constexpr int kBegin = 24576, kEnd = 32768, kTokens = kEnd - kBegin;
constexpr int kWindow = 32, kSinks = 4;

enum class Work { kAttention, kStaticScores, kKeyDiff };

class Chain {
 public:
  explicit Chain(int chunk)
      : shape_{32, 32, 8, 128, 4, DType::kBF16},
        chunk_(chunk),
        case_(shape_, Load(), {}, SplitMode::kEqualRanges, 132, false, 1),
        scores_(case_.num_virtual_pages() * kPageTokens),
        qkv_(size_t{kTokens} * shape_.qkv_width()),
        out_(size_t{kTokens} * shape_.q_heads * shape_.head_dim),
        inv_freq_(std::vector<float>(shape_.head_dim / 2, 0.01f)),
        zeros_(std::vector<int32_t>(kTokens, 0)) {
    std::mt19937 random(1);
    std::normal_distribution<float> normal;
    std::vector<__nv_bfloat16> qkv(qkv_.size() / 8);
    for (auto& x : qkv) x = __float2bfloat16(normal(random));
    for (int i = 0; i < 8; ++i) {
      TANGRAM_CUDA_CHECK(cudaMemcpy(qkv_.data() + i * qkv.size(), qkv.data(), 2 * qkv.size(),
                                    cudaMemcpyHostToDevice));
    }
    std::vector<float> new_scores(size_t{kTokens} * shape_.kv_heads);
    for (float& x : new_scores) x = normal(random);
    new_scores_ = DeviceArray<float>(new_scores);
    std::vector<int32_t> positions(kTokens), boundaries;
    for (int t = 0; t < kTokens; ++t) positions[t] = kBegin + t;
    for (int b = kBegin + chunk; b <= kEnd; b += chunk) boundaries.push_back(b / chunk);
    positions_ = DeviceArray<int32_t>(positions);
    boundaries_ = DeviceArray<int32_t>(boundaries);
    scores_.FillBytes(0);
    MakePlans();
  }

  double attention_flops() const { return flops_; }
  int boundaries() const { return kTokens / chunk_; }

  float Microseconds(Work work) {
    return GraphMicroseconds(1, 5, [&](int, cudaStream_t stream) {
      for (int layer = 0; layer < shape_.layers; ++layer) {
        for (int i = 0; i < boundaries(); ++i) RunChunk(layer, i, work, stream);
      }
    });
  }

 private:
  struct Plan {
    DeviceArray<PrefillItem> items;
    DeviceArray<int32_t> ranges;
    DeviceArray<PrefillMerge> merges;
  };

  // Rows between 0.1 and 0.5 of the sequence.
  DecodeLoad Load() const {
    DecodeLoad load{{kEnd}, {}, chunk_};
    for (int k = 0; k <= kEnd / chunk_; ++k) {
      for (int row = 0; row < shape_.num_rows(); ++row) {
        const double share = 0.1 + 0.4 * (row * 13 % shape_.num_rows() / (shape_.num_rows() - 1.0));
        const int tokens = static_cast<int>(share * k * chunk_) / kPageTokens * kPageTokens;
        load.retained.push_back(k == 0 ? 0 : std::max(tokens, 48));
      }
    }
    return load;
  }

  void MakePlans() {
    const auto kv = case_.attention_params(0).kv;
    size_t scratch = 0;
    for (int layer = 0; layer < shape_.layers; ++layer) {
      std::vector<int32_t> rows, columns;
      for (int h = 0; h < shape_.kv_heads; ++h) {
        const int place = layer * shape_.kv_heads + h;
        rows.push_back(place / shape_.group_size), columns.push_back(place % shape_.group_size);
      }
      for (int i = 0; i < boundaries(); ++i) {
        const int32_t* history =
            &case_.load().retained[size_t{1} * (kBegin / chunk_ + i) * shape_.num_rows()];
        const PrefillSequence sequence{0, 0, chunk_, history};
        const PrefillPlan plan =
            PlanPrefill({shape_.q_heads, shape_.kv_heads, rows.data(), columns.data(), kv.num_rows,
                         kv.max_pages_per_row},
                        {&sequence, 1}, CurrentDevice().num_sms, !RunsHopperCode());
        scratch = std::max(scratch, PrefillScratchBytes(plan, shape_.head_dim));
        plans_.push_back({DeviceArray<PrefillItem>(plan.items), DeviceArray<int32_t>(plan.ranges),
                          DeviceArray<PrefillMerge>(plan.merges)});
        for (int row : rows) {
          flops_ +=
              4.0 * shape_.head_dim * shape_.group() * chunk_ * (history[row] + (chunk_ + 1) / 2.0);
        }
      }
    }
    scratch_ = DeviceArray<float>(scratch / sizeof(float));
  }

  void RunChunk(int layer, int i, Work work, cudaStream_t stream) {
    const auto plan = case_.plan_params();
    const auto kv = case_.attention_params(0).kv;
    const size_t first = size_t{1} * i * chunk_;
    __nv_bfloat16* qkv = qkv_.data() + first * shape_.qkv_width();
    const bool with_scores = work == Work::kStaticScores;
    RunAppend(
        {qkv, chunk_, shape_.q_heads, shape_.kv_heads, nullptr, nullptr, 1e-6f,
         positions_.data() + first, zeros_.data(), zeros_.data(), inv_freq_.data(), 1, false, kv,
         plan.tables, layer, with_scores ? new_scores_.data() + first * shape_.kv_heads : nullptr,
         scores_.data(), true},
        stream);
    const Plan& p = plans_[size_t{1} * layer * boundaries() + i];
    RunPrefill({qkv, out_.data() + first * shape_.q_heads * shape_.head_dim, chunk_, shape_.q_heads,
                shape_.kv_heads, 0.0884f, kv, p.items.data(), static_cast<int>(p.items.size()),
                p.ranges.data(), CurrentDevice().num_sms, p.merges.data(),
                static_cast<int>(p.merges.size()), scratch_.data(), nullptr, 0, nullptr, 0},
               stream);
    if (work == Work::kAttention) return;
    const CompressParams rows{{1, zeros_.data(), boundaries_.data() + i, zeros_.data()},
                              plan.tables,
                              kv,
                              scores_.data(),
                              shape_.kv_heads,
                              layer,
                              1,
                              kWindow,
                              kSinks};
    if (work == Work::kKeyDiff) RunScoreKeyDiff(rows, stream);
    RunSelectAndCompact(rows, stream);
  }

  DecodeShape shape_;
  int chunk_;
  DecodeCase case_;
  DeviceArray<float> scores_;
  DeviceArray<__nv_bfloat16> qkv_, out_;
  DeviceArray<float> inv_freq_;
  DeviceArray<int32_t> zeros_, positions_, boundaries_;
  DeviceArray<float> new_scores_, scratch_;
  std::vector<Plan> plans_;
  double flops_ = 0;
};

void BenchChain(const std::vector<std::string>& args) {
  std::vector<int> chunks = {256, 512, 1024, 2048, 8192};
  if (!args.empty()) chunks = {ChunkArgument(args[0], kTokens)};
  std::printf(
      "# 8192 tokens of one sequence behind 24576, Llama-3.1-8B, 32 layers, ratio 0.3, bf16\n");
  for (int chunk : chunks) {
    Chain chain(chunk);
    const float attention = chain.Microseconds(Work::kAttention);
    const float gate = chain.Microseconds(Work::kStaticScores);
    const float keydiff = chain.Microseconds(Work::kKeyDiff);
    const int links = 32 * chain.boundaries();
    std::printf(
        "chunk %5d: append and attention %8.2f ms (%.1f us a chunk and layer; %.2f PFLOP, %.0f "
        "TFLOP/s), with selection and compaction %8.2f ms (+%.2f ms, %.1f us each), with keydiff "
        "too %8.2f ms (+%.2f ms, %.1f us each)\n",
        chunk, 1e-3 * attention, attention / links, 1e-15 * chain.attention_flops(),
        1e-6 * chain.attention_flops() / attention, 1e-3 * gate, 1e-3 * (gate - attention),
        (gate - attention) / links, 1e-3 * keydiff, 1e-3 * (keydiff - attention),
        (keydiff - attention) / links);
    std::fflush(stdout);
  }
}

constexpr Benchmark kBenchmarks[] = {
    {"chain", "[CHUNK]: append, attention, selection and compaction, boundary by boundary",
     BenchChain},
};

}  // namespace

std::span<const Benchmark> ChainBenchmarks() { return kBenchmarks; }

}  // namespace tangram::bench
