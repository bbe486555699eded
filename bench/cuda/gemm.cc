#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <memory>

#include "bench/cuda/bench.h"
#include "ops/cuda/cublaslt.h"
#include "ops/cuda/device.h"
#include "ops/cuda/device_array.h"
#include "ops/cuda/gemm_stream.h"

// `bench gemm [LIBRARY] [all] [m=M] [model=NAME]`: the matrix products of a layer at small batch,
// against cuBLASLt's best plan. Every call reads other weights, 400 MB and more in turn. "all"
// prints every tile as well.

namespace tangram::bench {
namespace {

using ops::cuda::CublasLt;
using ops::cuda::MatMulArgs;

struct Product {
  const char* model;
  const char* name;
  int n, k;
};

constexpr Product kProducts[] = {
    {"Qwen3-4B", "qkv", 6144, 2560},          {"Qwen3-4B", "o", 2560, 4096},
    {"Qwen3-4B", "gate_up", 19456, 2560},     {"Qwen3-4B", "down", 2560, 9728},
    {"Llama-3.1-8B", "qkv", 6144, 4096},      {"Llama-3.1-8B", "o", 4096, 4096},
    {"Llama-3.1-8B", "gate_up", 28672, 4096}, {"Llama-3.1-8B", "down", 4096, 14336},
    {"Qwen2.5-7B", "qkv", 4608, 3584},        {"Qwen2.5-7B", "o", 3584, 3584},
    {"Qwen2.5-7B", "gate_up", 37888, 3584},   {"Qwen2.5-7B", "down", 3584, 18944},
};

constexpr size_t kPoolElements = size_t{512} << 20;  // 1 GiB of weights
constexpr int kMaxTokens = 512;

class GemmBench {
 public:
  explicit GemmBench(const std::string& library)
      : pool_(kPoolElements),
        x_(kMaxTokens * 18944),
        out_(kMaxTokens * 40000),
        stream_workspace_(
            ops::cuda::StreamWorkspaceBytes(40000, ops::cuda::CurrentDevice().num_sms)),
        library_workspace_(CublasLt::kWorkspaceBytes) {
    FillRandom(&pool_);
    FillRandom(&x_);
    stream_workspace_.FillBytes(0);
    auto opened = CublasLt::Open(library);
    if (opened) {
      library_ = std::move(*opened);
    } else {
      std::printf("# %s\n", opened.error().message.c_str());
    }
  }

  // Microseconds of a product on rotating weights.
  float Ours(const Product& p, int m, int config, bool dependent_launch) {
    ops::cuda::StreamOptions options;
    options.config = config;
    options.dependent_launch = dependent_launch;
    return ops::cuda::StreamConfigs()[std::max(config, 0)].launch(nullptr, std::min(m, 64))
               ? Time(p, m,
                      [&](const MatMulArgs& args, cudaStream_t stream) {
                        ops::cuda::RunStreamMatMul(
                            args, {stream_workspace_.data(), stream_workspace_.bytes()}, options,
                            stream);
                      })
               : 1e9f;
  }

  // The fastest of cuBLASLt's plans; 0 without the library.
  float Library(const Product& p, int m) {
    if (library_ == nullptr) return 0;
    float best = 1e9f;
    for (const auto& plan : library_->Plans(Args(p, m, 0), 24)) {
      best = std::min(best, Time(p, m, [&](const MatMulArgs& args, cudaStream_t stream) {
                        library_->Run(*plan, args, library_workspace_.data(), stream);
                      }));
    }
    return best;
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

  MatMulArgs Args(const Product& p, int m, int index) const {
    const size_t size = static_cast<size_t>(p.n) * p.k;
    const size_t copies = kPoolElements / size;
    return {x_.data(), pool_.data() + index % copies * size, nullptr, out_.data(), nullptr, m, p.n,
            p.k};
  }

  template <class Launch>
  float Time(const Product& p, int m, const Launch& launch) {
    const size_t bytes = static_cast<size_t>(p.n) * p.k * 2;
    const int count = std::max<int>(8, static_cast<int>((size_t{400} << 20) / bytes));
    return GraphMicroseconds(count, 9,
                             [&](int i, cudaStream_t stream) { launch(Args(p, m, i), stream); });
  }

  ops::cuda::DeviceArray<__nv_bfloat16> pool_, x_, out_;
  ops::cuda::DeviceArray<char> stream_workspace_, library_workspace_;
  std::unique_ptr<CublasLt> library_;
};

void PrintRow(const Product& p, int m, const char* name, float us, float best_library,
              double copy_rate) {
  const double rate = 2e-6 * p.n * p.k / us;
  std::printf("%-13s %-8s M=%-3d %-18s %7.2f us  %5.2f TB/s  %3.0f%% of copy  %5.2fx library\n",
              p.model, p.name, m, name, us, rate, 100 * rate / copy_rate, best_library / us);
  std::fflush(stdout);
}

void BenchGemm(const std::vector<std::string>& args) {
  const bool all = std::find(args.begin(), args.end(), "all") != args.end();
  const auto wants = [&](const std::string& key, const std::string& value) {
    const auto given = [&](const std::string& arg) { return arg.starts_with(key); };
    return std::none_of(args.begin(), args.end(), given) ||
           std::find(args.begin(), args.end(), key + value) != args.end();
  };
  const double copy_rate = MeasureCeilings().copy;
  GemmBench bench(args.empty() ? "libcublasLt.so.13" : args[0]);
  std::printf("# copy %.3f TB/s\n", copy_rate);
  for (int m : {1, 8, 16, 32, 64, 512}) {
    if (!wants("m=", std::to_string(m))) continue;
    float ours_sum = 0, alone_sum = 0, library_sum = 0;
    double bytes = 0;
    for (const Product& p : kProducts) {
      if (!wants("model=", p.model)) continue;
      const float library = bench.Library(p, m);
      if (all) {
        for (int c = 0; c < static_cast<int>(ops::cuda::StreamConfigs().size()); ++c) {
          if (!ops::cuda::StreamConfigs()[c].launch(nullptr, m)) continue;
          PrintRow(p, m, ops::cuda::StreamConfigs()[c].name, bench.Ours(p, m, c, true), library,
                   copy_rate);
        }
      }
      const float ours = bench.Ours(p, m, -1, true), alone = bench.Ours(p, m, -1, false);
      PrintRow(p, m, "ours", ours, library, copy_rate);
      PrintRow(p, m, "ours, alone", alone, library, copy_rate);
      PrintRow(p, m, "cuBLASLt", library, library, copy_rate);
      ours_sum += ours, alone_sum += alone, library_sum += library;
      bytes += 2.0 * p.n * p.k;
      if (std::string(p.name) != "down") continue;
      std::printf(
          "%-13s layer    M=%-3d ours %.1f us (%.0f%% of copy, %.2fx library), alone %.1f, "
          "cuBLASLt %.1f (%.0f%%)\n",
          p.model, m, ours_sum, 100e-6 * bytes / ours_sum / copy_rate, library_sum / ours_sum,
          alone_sum, library_sum, 100e-6 * bytes / library_sum / copy_rate);
      ours_sum = alone_sum = library_sum = 0, bytes = 0;
    }
  }
}

constexpr Benchmark kBenchmarks[] = {
    {"gemm",
     "[LIBRARY] [all] [m=M] [model=NAME]: a layer's products at small batch, against cuBLASLt",
     BenchGemm},
};

}  // namespace

std::span<const Benchmark> GemmBenchmarks() { return kBenchmarks; }

}  // namespace tangram::bench
