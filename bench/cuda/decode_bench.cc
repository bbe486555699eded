#include <algorithm>
#include <cstdio>
#include <random>

#include "bench/cuda/bench.h"
#include "bench/cuda/decode_case.h"
#include "bench/cuda/decode_study.h"
#include "ops/cuda/device.h"
#include "ops/cuda/step/append.h"

namespace tangram::bench {
namespace {

using ops::cuda::CurrentDevice;
using ops::cuda::SplitMode;

// Mean time of a layer's attention with its combine, every layer once a replay. `early_start`: a
// layer's attention begins to read while that of the layer before ends.
float LayerMicroseconds(const DecodeCase& c, bool early_start) {
  c.Plan(nullptr);
  return GraphMicroseconds(c.shape().layers, 5, [&](int i, cudaStream_t stream) {
    c.Attend(i, false, stream, early_start && i > 0);
  });
}
float CombineMicroseconds(const DecodeCase& c) {
  return GraphMicroseconds(c.shape().layers, 9, [&](int i, cudaStream_t stream) {
    ops::cuda::RunDecodeCombine(c.attention_params(i), stream);
  });
}

double TotalBytes(const DecodeCase& c) {
  double bytes = 0;
  for (int layer = 0; layer < c.shape().layers; ++layer) bytes += c.LayerBytes(layer);
  return bytes;
}

float UniformMicroseconds(const DecodeShape& shape, DecodeLoad load, int num_ranges, double bytes) {
  const int rows = shape.num_rows();
  for (size_t k = 0; k < load.retained.size() / rows; ++k) {
    int64_t sum = 0;
    for (int row = 0; row < rows; ++row) sum += load.retained[k * rows + row];
    std::fill_n(load.retained.begin() + k * rows, rows, static_cast<int32_t>(sum / rows));
  }
  const DecodeCase uniform(shape, load, {}, SplitMode::kEqualRanges, num_ranges, false, 2);
  return static_cast<float>(LayerMicroseconds(uniform, true) * bytes / TotalBytes(uniform));
}

void BenchDecode(const std::vector<std::string>& args) {
  const std::string filter = args.size() > 1 ? args[1] : "";
  std::vector<std::string> scorers = {"snapkv", "keydiff"};
  if (args.empty()) scorers = {"spread"};  // no profile: demands between 0.1 and 0.5
  const Ceilings ceilings = MeasureCeilings();
  std::printf("copy %.3f TB/s, linear read %.3f, random 8 KiB %.3f, random 4 KiB %.3f\n",
              ceilings.copy, ceilings.linear_read, ceilings.random_8k, ceilings.random_4k);
  std::printf("%-8s %-13s %-11s %-5s %9s %9s %9s %7s %7s %8s %8s %8s %9s %8s\n", "scorer", "model",
              "batch", "dtype", "MB/layer", "us/layer", "bound", "TB/s", "share", "uniform", "r/u",
              "combine", "invariant", "apart");
  const int num_ranges = CurrentDevice().num_sms;
  for (const std::string& scorer : scorers) {
    for (const StudyModel& model : kStudyModels) {
      const auto ratios = args.empty()
                              ? SpreadRatios(model.layers * 8)
                              : ReadRatios(args[0] + "/" + scorer + "-" + model.name + ".txt");
      for (const DecodeContexts& batch : StudyBatches()) {
        for (DType dtype : {DType::kBF16, DType::kF8E4M3}) {
          const std::string row =
              scorer + " " + model.name + " " + batch.name + " " + std::string(DTypeName(dtype));
          if (row.find(filter) == std::string::npos) continue;
          const DecodeShape shape{model.layers, 32, 8, 128, 4, dtype};
          std::vector<int32_t> contexts = batch.contexts;
          if (dtype == DType::kBF16 && contexts.size() == 64) {
            contexts.resize(40);  // what fits
          }
          std::vector<int32_t> places;
          const DecodeLoad load =
              ProfileLoad(shape, ratios, kStudyRatio, contexts, kStudyChunk, &places);
          double bytes;
          float us, apart, combine, invariant;
          {
            const DecodeCase c(shape, load, places, SplitMode::kEqualRanges, num_ranges, false, 1);
            bytes = TotalBytes(c);
            us = LayerMicroseconds(c, true);
            apart = LayerMicroseconds(c, false);
            combine = CombineMicroseconds(c);
          }
          {
            const DecodeCase c(shape, load, places, SplitMode::kBatchInvariant, num_ranges, false,
                               1);
            invariant = LayerMicroseconds(c, true);
          }
          const float uniform = UniformMicroseconds(shape, load, num_ranges, bytes);
          const double rate = dtype == DType::kBF16 ? ceilings.random_8k : ceilings.random_4k;
          const double layer_bytes = bytes / model.layers;
          std::printf(
              "%-8s %-13s %-11s %-5s %9.1f %9.2f %9.2f %7.3f %6.1f%% %8.2f %8.3f %8.2f %9.2f "
              "%8.2f\n",
              scorer.c_str(), model.name,
              (std::to_string(contexts.size()) + ":" + batch.name).c_str(),
              dtype == DType::kBF16 ? "bf16" : "fp8", 1e-6 * layer_bytes, us,
              1e-6 * layer_bytes / (0.92 * rate) + 8, 1e-6 * layer_bytes / us,
              100 * 1e-6 * layer_bytes / us / rate, uniform, us / uniform, combine, invariant,
              apart);
          std::fflush(stdout);
        }
      }
    }
  }
}

void BenchPlan(const std::vector<std::string>&) {
  const int num_ranges = CurrentDevice().num_sms;
  for (int layers : {32, 36}) {
    for (int slots : {1, 64, 512}) {
      const DecodeShape shape{layers, 32, 8, 128, 4, DType::kF8E4M3};
      std::mt19937 random(slots);
      DecodeLoad load{{}, {}, 512};
      for (int t = 0; t < slots; ++t) load.num_tokens.push_back(1 + random() % 1200);
      for (int k = 0; k < 3; ++k) {
        for (int row = 0; row < shape.num_rows(); ++row) {
          load.retained.push_back(k * 16 * (random() % 12));
        }
      }
      const DecodeCase c(shape, load, {}, SplitMode::kEqualRanges, num_ranges, false, 1);
      const float us = GraphMicroseconds(20, 9, [&](int, cudaStream_t stream) { c.Plan(stream); });
      std::printf("plan, %d layers, %3d slots: %.2f us\n", layers, slots, us);
    }
  }
}

// Appends of one layer after another. Their input is in the L2 cache for the most part, where the
// product before leaves it in a step.
class AppendBench {
 public:
  AppendBench(DType dtype, int tokens)
      : shape_{32, 32, 8, 128, 4, dtype},
        tokens_(tokens),
        case_(shape_, Load(), {}, SplitMode::kEqualRanges, 132, false, 1),
        qkv_(size_t{1} * kBuffers * tokens * shape_.qkv_width()),
        tables_(std::vector<int32_t>(tokens, 0)),
        inv_freq_(std::vector<float>(shape_.head_dim / 2, 0.01f)),
        norm_(std::vector<float>(shape_.head_dim, 1.0f)),
        new_scores_(std::vector<float>(size_t{1} * tokens * shape_.kv_heads, 1.0f)),
        scores_(case_.num_virtual_pages() * ops::cuda::kPageTokens) {
    qkv_.FillBytes(0x3c);
    std::vector<int32_t> position, slot;
    for (int t = 0; t < tokens; ++t) {
      position.push_back(prefill() ? t : 699);
      slot.push_back(prefill() ? 0 : t);
    }
    positions_ = ops::cuda::DeviceArray<int32_t>(position);
    slots_ = ops::cuda::DeviceArray<int32_t>(slot);
  }

  double Bytes() const {
    return tokens_ * (2.0 * shape_.qkv_width() + 2.0 * shape_.q_heads * shape_.head_dim +
                      shape_.kv_heads * shape_.page_bytes() / 16.0);
  }
  // `norms`: of queries and keys, as Qwen3 has them; `scores`: the gate's are put beside the keys.
  float Microseconds(bool norms, bool scores) const {
    const float* norm = norms ? norm_.data() : nullptr;
    return GraphMicroseconds(shape_.layers, 9, [&](int i, cudaStream_t stream) {
      ops::cuda::RunAppend(
          {qkv_.data() + size_t{1} * (i % kBuffers) * tokens_ * shape_.qkv_width(), tokens_,
           shape_.q_heads, shape_.kv_heads, norm, norm, 1e-6f, positions_.data(), slots_.data(),
           tables_.data(), inv_freq_.data(), 1, false, case_.attention_params(i).kv,
           case_.plan_params().tables, i, scores ? new_scores_.data() : nullptr,
           scores ? scores_.data() : nullptr, true},
          stream);
    });
  }

 private:
  static constexpr int kBuffers = 4;
  bool prefill() const { return tokens_ > 512; }
  DecodeLoad Load() const {
    return {std::vector<int32_t>(prefill() ? 1 : tokens_, prefill() ? tokens_ : 700),
            std::vector<int32_t>(shape_.num_rows(), 0), 1 << 20};
  }

  DecodeShape shape_;
  int tokens_;
  DecodeCase case_;
  ops::cuda::DeviceArray<__nv_bfloat16> qkv_;
  ops::cuda::DeviceArray<int32_t> positions_, slots_, tables_;
  ops::cuda::DeviceArray<float> inv_freq_, norm_, new_scores_, scores_;
};

void BenchAppend(const std::vector<std::string>&) {
  const Ceilings ceilings = MeasureCeilings();
  for (DType dtype : {DType::kBF16, DType::kF8E4M3}) {
    for (int tokens : {1, 64, 512, 2048, 8192}) {
      const AppendBench append(dtype, tokens);
      const float us = append.Microseconds(false, false);
      const double rate = 1e-6 * append.Bytes() / us;
      std::printf(
          "append, Llama-3.1-8B, %-8s %5d tokens: %7.2f us, %6.1f MB, %.3f TB/s, %.1f%% of random "
          "reads; with norms %7.2f us, with the gate's scores too %7.2f us\n",
          std::string(DTypeName(dtype)).c_str(), tokens, us, 1e-6 * append.Bytes(), rate,
          100 * rate / (dtype == DType::kBF16 ? ceilings.random_8k : ceilings.random_4k),
          append.Microseconds(true, false), append.Microseconds(true, true));
    }
  }
}

void BenchCeilings(const std::vector<std::string>&) {
  const Ceilings c = MeasureCeilings();
  std::printf("copy %.3f TB/s, linear read %.3f, random 8 KiB %.3f, random 4 KiB %.3f\n", c.copy,
              c.linear_read, c.random_8k, c.random_4k);
}

constexpr Benchmark kBenchmarks[] = {
    {"ceilings", "copy and read rates of the card", BenchCeilings},
    {"plan", "the plan of all layers", BenchPlan},
    {"append", "norm, rotation and append, at decode and prefill", BenchAppend},
    {"attention",
     "[DIR [FILTER]]: decode attention; DIR has profiles, FILTER names 'scorer model batch dtype'",
     BenchDecode},
};

}  // namespace

std::span<const Benchmark> DecodeBenchmarks() { return kBenchmarks; }

}  // namespace tangram::bench
