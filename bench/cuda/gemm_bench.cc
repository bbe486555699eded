#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <optional>
#include <string>

#include "bench/cuda/bench.h"
#include "ops/cuda/device.h"
#include "ops/cuda/device_array.h"
#include "ops/cuda/gemm/cublaslt.h"
#include "ops/cuda/gemm/gemm_stream.h"
#include "ops/cuda/gemm/matmul_runner.h"

// `bench gemm [LIBRARY] [all] [m=M] [model=NAME]`: the matrix products of a layer and of the head
// as a step runs them, against cuBLASLt's best plan. Every call reads other weights, 400 MB and
// more in turn. "all" prints every tile as well.

namespace tangram::bench {
namespace {

using ops::cuda::CublasLt;
using ops::cuda::MatMulArgs;

struct Product {
  const char* model;
  const char* name;
  int n, k;

  double megabytes() const { return 2e-6 * n * k; }
};

constexpr Product kProducts[] = {
    {"Qwen3-4B", "qkv", 6144, 2560},        {"Qwen3-4B", "o", 2560, 4096},
    {"Qwen3-4B", "gate_up", 19456, 2560},   {"Qwen3-4B", "down", 2560, 9728},
    {"Qwen3-4B", "head", 151936, 2560},     {"Llama-3.1-8B", "qkv", 6144, 4096},
    {"Llama-3.1-8B", "o", 4096, 4096},      {"Llama-3.1-8B", "gate_up", 28672, 4096},
    {"Llama-3.1-8B", "down", 4096, 14336},  {"Llama-3.1-8B", "head", 128256, 4096},
    {"Qwen2.5-7B", "qkv", 4608, 3584},      {"Qwen2.5-7B", "o", 3584, 3584},
    {"Qwen2.5-7B", "gate_up", 37888, 3584}, {"Qwen2.5-7B", "down", 3584, 18944},
    {"Qwen2.5-7B", "head", 152064, 3584},
};

constexpr size_t kPoolElements = size_t{560} << 20;  // 1.1 GiB of weights
constexpr int kMaxTokens = 512, kMaxRows = 152064;

class GemmBench {
 public:
  explicit GemmBench(const std::string& library)
      : pool_(kPoolElements),
        x_(kMaxTokens * 18944),
        out_(size_t{kMaxTokens} * kMaxRows),
        stream_workspace_(
            ops::cuda::StreamWorkspaceBytes(kMaxRows, ops::cuda::CurrentDevice().num_sms)),
        library_workspace_(CublasLt::kWorkspaceBytes) {
    FillRandom(&pool_);
    FillRandom(&x_);
    stream_workspace_.FillBytes(0);
    auto opened = CublasLt::Open(library);
    if (opened) {
      library_ = std::move(*opened);
      runner_.emplace(*CublasLt::Open(library), workspace(), library_workspace_.data(), false);
    } else {
      std::printf("# %s\n", opened.error().message.c_str());
      runner_.emplace(nullptr, workspace(), nullptr, false);
    }
  }

  // Microseconds of a product on rotating weights, as a step runs it.
  float Ours(const Product& p, int m) {
    std::vector<MatMulArgs> products;
    for (int i = 0; i < Copies(p); ++i) products.push_back(Args(p, m, i));
    runner_->Tune(products, nullptr);
    return Time(p, m,
                [&](const MatMulArgs& args, cudaStream_t stream) { runner_->Run(args, stream); });
  }

  float Streamed(const Product& p, int m, const ops::cuda::StreamOptions& options) {
    return Time(p, m, [&](const MatMulArgs& args, cudaStream_t stream) {
      ops::cuda::RunStreamMatMul(args, workspace(), options, stream);
    });
  }

  // The fastest of cuBLASLt's plans; 0 without the library. Those that a short look finds to be 5%
  // slower than another are not timed further.
  float Library(const Product& p, int m) {
    if (library_ == nullptr) return 0;
    std::vector<std::pair<float, std::shared_ptr<CublasLt::Plan>>> plans;
    const auto time = [&](const CublasLt::Plan& plan, float warmup_us) {
      const auto run = [&](const MatMulArgs& args, cudaStream_t stream) {
        library_->Run(plan, args, library_workspace_.data(), stream);
      };
      return Time(p, m, run, warmup_us);
    };
    for (const auto& plan : library_->Plans(Args(p, m, 0), 24)) {
      plans.emplace_back(time(*plan, plans.empty() ? 150000 : 5000), plan);
    }
    float least = 1e9f, best = 1e9f;
    for (const auto& [us, plan] : plans) least = std::min(least, us);
    for (const auto& [us, plan] : plans) {
      if (us < 1.05f * least) best = std::min(best, time(*plan, 150000));
    }
    return best;
  }

  // Microseconds of a gate's scores: `columns` f32 columns of `m` tokens of 4096, which rotate.
  float Gate(int m, int columns) {
    const size_t size = size_t{4096} * m, copies = kPoolElements / size;
    const int count = static_cast<int>(std::clamp<size_t>((size_t{200} << 20) / size, 8, 100));
    return GraphMicroseconds(count, 9, [&](int i, cudaStream_t stream) {
      ops::cuda::RunNarrowMatMul({pool_.data() + i % copies * size, x_.data(), nullptr, nullptr,
                                  reinterpret_cast<float*>(out_.data()), m, columns, 4096, columns},
                                 stream);
    });
  }

 private:
  static void FillRandom(ops::cuda::DeviceArray<__nv_bfloat16>* array) {
    // Random bits with the exponent held near 1: a block is drawn once and repeated.
    std::vector<uint16_t> block(size_t{8} << 20);
    uint32_t state = 12345;
    for (uint16_t& v : block) {
      state = state * 1664525u + 1013904223u;
      v = static_cast<uint16_t>((state >> 16 & 0x80ff) | 0x3c00 | (state >> 8 & 0x0100));
    }
    for (size_t at = 0; at < array->size(); at += block.size()) {
      const size_t count = std::min(block.size(), array->size() - at);
      TANGRAM_CUDA_CHECK(
          cudaMemcpy(array->data() + at, block.data(), count * 2, cudaMemcpyHostToDevice));
    }
  }

  static int Copies(const Product& p) {
    return static_cast<int>(kPoolElements / (static_cast<size_t>(p.n) * p.k));
  }

  MatMulArgs Args(const Product& p, int m, int index) const {
    const size_t size = static_cast<size_t>(p.n) * p.k;
    return {
        x_.data(), pool_.data() + index % Copies(p) * size, nullptr, out_.data(), nullptr, m, p.n,
        p.k};
  }

  ops::cuda::StreamWorkspace workspace() const {
    return {stream_workspace_.data(), stream_workspace_.bytes()};
  }

  template <class Launch>
  float Time(const Product& p, int m, const Launch& launch, float warmup_us = 150000) {
    const int count = std::max(8, static_cast<int>(400 / p.megabytes()));
    return GraphMicroseconds(
        count, 9, [&](int i, cudaStream_t stream) { launch(Args(p, m, i), stream); }, warmup_us);
  }

  ops::cuda::DeviceArray<__nv_bfloat16> pool_, x_, out_;
  ops::cuda::DeviceArray<char> stream_workspace_, library_workspace_;
  std::unique_ptr<CublasLt> library_;
  std::optional<ops::cuda::MatMulRunner> runner_;
};

// Sums of the products of a layer.
struct LayerSum {
  float ours = 0, alone = 0, cublaslt = 0;
  double megabytes = 0;
};

void PrintRow(const Product& p, int m, const std::string& name, float us, float best_library,
              double copy_rate) {
  const double rate = p.megabytes() / us;
  std::printf("%-13s %-8s M=%-3d %-16s %7.2f us  %6.1f MB  %5.2f TB/s  %3.0f%% of copy", p.model,
              p.name, m, name.c_str(), us, p.megabytes(), rate, 100 * rate / copy_rate);
  if (best_library > 0) std::printf("  %5.2fx library", best_library / us);
  std::printf("\n");
  std::fflush(stdout);
}

void PrintEveryTile(GemmBench& bench, const Product& p, int m, float library, double copy_rate) {
  for (int c = 0; c < static_cast<int>(ops::cuda::StreamConfigs().size()); ++c) {
    const ops::cuda::StreamConfig& config = ops::cuda::StreamConfigs()[c];
    ops::cuda::StreamLaunch launch{};
    launch.args.m = std::min(m, ops::cuda::kStreamMaxTokens);
    std::string name = config.name;
    if (config.most_rows > 0) {
      launch.even_rows = ops::cuda::EvenTileRows(p.n, config.most_rows);
      name += " " + std::to_string(launch.even_rows);
    }
    if (!config.launch(launch, true)) continue;
    PrintRow(p, m, name, bench.Streamed(p, m, {.config = c}), library, copy_rate);
  }
}

void PrintLayer(const char* model, int m, const LayerSum& sum, double copy_rate) {
  const auto share = [&](float us) { return 100 * sum.megabytes / us / copy_rate; };
  std::printf("%-13s layer    M=%-3d ours %.1f us (%.0f%% of copy)", model, m, sum.ours,
              share(sum.ours));
  if (sum.alone > 0) std::printf(", alone %.1f", sum.alone);
  if (sum.cublaslt > 0) {
    std::printf(", cuBLASLt %.1f (%.0f%%): %.2fx", sum.cublaslt, share(sum.cublaslt),
                sum.cublaslt / sum.ours);
  }
  std::printf("\n");
}

// "KEY=VALUE" among the arguments, or none with that key.
bool Wants(const std::vector<std::string>& args, const std::string& key, const std::string& value) {
  const auto given = [&](const std::string& arg) { return arg.starts_with(key + "="); };
  return std::none_of(args.begin(), args.end(), given) ||
         std::find(args.begin(), args.end(), key + "=" + value) != args.end();
}

void BenchGemm(const std::vector<std::string>& args) {
  const bool all = std::find(args.begin(), args.end(), "all") != args.end();
  const bool named = !args.empty() && args[0] != "all" && args[0].find('=') == std::string::npos;
  const double copy_rate = MeasureCeilings().copy;
  GemmBench bench(named ? args[0] : "libcublasLt.so.13");
  std::printf("# copy %.3f TB/s\n", copy_rate);
  for (int m : {1, 8, 16, 32, 64, 512}) {
    if (!Wants(args, "m", std::to_string(m))) continue;
    LayerSum sum;
    for (const Product& p : kProducts) {
      if (!Wants(args, "model", p.model)) continue;
      const float library = bench.Library(p, m);
      if (all) PrintEveryTile(bench, p, m, library, copy_rate);
      const float ours = bench.Ours(p, m);
      PrintRow(p, m, "ours", ours, library, copy_rate);
      float alone = 0;
      if (m <= 32) {
        alone = bench.Streamed(p, m, {.dependent_launch = false});
        PrintRow(p, m, "ours, alone", alone, library, copy_rate);
      }
      if (library > 0) PrintRow(p, m, "cuBLASLt", library, library, copy_rate);
      if (std::string(p.name) == "head") continue;
      sum.ours += ours, sum.alone += alone, sum.cublaslt += library, sum.megabytes += p.megabytes();
      if (std::string(p.name) != "down") continue;
      PrintLayer(p.model, m, sum, copy_rate);
      sum = {};
    }
  }
  for (int m : {64, 512, 8192}) {
    const float us = bench.Gate(m, 8);
    std::printf("a gate's 8 columns of 4096, M=%d: %.2f us, %.2f TB/s\n", m, us,
                2e-6 * 4096 * m / us);
  }
}

constexpr Benchmark kBenchmarks[] = {
    {"gemm",
     "[LIBRARY] [all] [m=M] [model=NAME]: a layer's and the head's products at small batch, "
     "against cuBLASLt",
     BenchGemm},
};

}  // namespace

std::span<const Benchmark> GemmBenchmarks() { return kBenchmarks; }

}  // namespace tangram::bench
