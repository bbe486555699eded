#include "ops/cuda/prefill.h"

#include <algorithm>
#include <cstdio>
#include <numeric>
#include <random>

#include "bench/cuda/bench.h"
#include "ops/cuda/cublaslt.h"
#include "ops/cuda/device.h"
#include "ops/cuda/device_array.h"

// `bench prefill [LIBRARY [FILTER]]`: prefill attention of one layer, chunk behind a history of
// pages in random order, against the 8192^3 matrix product. Four sequences in turn, so that no call
// finds its keys in the L2 cache.

namespace tangram::bench {
namespace {

using namespace ops::cuda;

constexpr int kCopies = 4;
constexpr int kMaxHistory = 32768 * 2, kMaxChunk = 8192;

// TFLOP/s of the 8192^3 product; 0 without the library.
double ProductRate(const std::string& path) {
  auto library = CublasLt::Open(path);
  if (!library) {
    std::printf("# %s\n", library.error().message.c_str());
    return 0;
  }
  const int n = 8192;
  std::vector<__nv_bfloat16> random(size_t(n) * n);
  std::mt19937 generator(1);
  for (auto& v : random) v = __float2bfloat16((int(generator() >> 8 & 0xffff) - 32768) / 32768.f);
  DeviceArray<__nv_bfloat16> x(random), weight(random), out(size_t(n) * n);
  DeviceArray<char> workspace(CublasLt::kWorkspaceBytes);
  const MatMulArgs args{x.data(), weight.data(), nullptr, out.data(), nullptr, n, n, n};
  float best = 1e9f;
  for (const auto& plan : (*library)->Plans(args, 8)) {
    best = std::min(best, MedianMicroseconds(2, 10, [&](int, cudaStream_t stream) {
                      (*library)->Run(*plan, args, workspace.data(), stream);
                    }));
  }
  return 2e-6 * n * n * n / best;
}

class PrefillBench {
 public:
  PrefillBench(int q_heads, int kv_heads, int dim)
      : q_heads_(q_heads), kv_heads_(kv_heads), dim_(dim) {
    max_pages_ = (kMaxHistory + kMaxChunk) / kPageTokens;
    const int num_pages = kCopies * kv_heads * max_pages_;
    std::vector<int32_t> ids(num_pages);
    std::iota(ids.begin(), ids.end(), 0);
    std::shuffle(ids.begin(), ids.end(), std::mt19937(3));
    page_table_ = DeviceArray<int32_t>(ids);
    std::vector<__nv_bfloat16> random(size_t{1} << 22);
    std::mt19937 generator(4);
    std::normal_distribution<float> normal;
    for (auto& v : random) v = __float2bfloat16(normal(generator));
    pool_ = DeviceArray<__nv_bfloat16>(size_t(num_pages) * 2 * kPageTokens * dim);
    qkv_ = DeviceArray<__nv_bfloat16>(size_t(kMaxChunk) * (q_heads + 2 * kv_heads) * dim);
    out_ = DeviceArray<__nv_bfloat16>(size_t(kMaxChunk) * q_heads * dim);
    for (auto* array : {&pool_, &qkv_}) {
      for (size_t at = 0; at < array->size(); at += random.size()) {
        TANGRAM_CUDA_CHECK(cudaMemcpy(array->data() + at, random.data(),
                                      std::min(random.size(), array->size() - at) * 2,
                                      cudaMemcpyHostToDevice));
      }
    }
    rows_.resize(kv_heads), columns_.resize(kv_heads, 0);
    std::iota(rows_.begin(), rows_.end(), 0);
  }

  // TFLOP/s of `requests` chunks of `chunk` tokens in a call; head h has history[h] keys before
  // them.
  double Rate(int requests, int chunk, const std::vector<int>& history, bool simple) {
    struct OnDevice {
      DeviceArray<PrefillItem> items;
      DeviceArray<int32_t> ranges;
      DeviceArray<PrefillMerge> merges;
      DeviceArray<float> scratch;
    };
    std::vector<OnDevice> plans;
    const int blocks = CurrentDevice().num_sms;
    double flops = 0;
    for (int copy = 0; copy < kCopies; ++copy) {
      std::vector<PrefillSequence> sequences;
      for (int r = 0; r < requests; ++r) {
        sequences.push_back({(copy + r) % kCopies, r * chunk, chunk, history.data()});
      }
      const PrefillPlan plan =
          PlanPrefill({q_heads_, kv_heads_, rows_.data(), columns_.data(), kv_heads_, max_pages_},
                      sequences, blocks, simple);
      plans.push_back({DeviceArray<PrefillItem>(plan.items), DeviceArray<int32_t>(plan.ranges),
                       DeviceArray<PrefillMerge>(plan.merges),
                       DeviceArray<float>(PrefillScratchBytes(plan, dim_) / sizeof(float))});
    }
    for (int h : history) {
      flops += 4.0 * dim_ * (q_heads_ / kv_heads_) * requests * chunk * (h + (chunk + 1) / 2.0);
    }
    const float us = MedianMicroseconds(kCopies, 8, [&](int i, cudaStream_t stream) {
      const OnDevice& plan = plans[i % kCopies];
      const PrefillArgs args{qkv_.data(),
                             out_.data(),
                             requests * chunk,
                             q_heads_,
                             kv_heads_,
                             0.0884f,
                             {pool_.data(), DType::kBF16, dim_, 1, int64_t(page_table_.size()),
                              page_table_.data(), kv_heads_, max_pages_, nullptr, nullptr},
                             plan.items.data(),
                             int(plan.items.size()),
                             plan.ranges.data(),
                             blocks,
                             plan.merges.data(),
                             int(plan.merges.size()),
                             plan.scratch.data(),
                             nullptr,
                             0,
                             nullptr,
                             0};
      simple ? RunPrefillSimple(args, stream) : RunPrefillSm90(args, stream);
    });
    return 1e-6 * flops / us;
  }

 private:
  int q_heads_, kv_heads_, dim_, max_pages_;
  std::vector<int32_t> rows_, columns_;
  DeviceArray<__nv_bfloat16> pool_, qkv_, out_;
  DeviceArray<int32_t> page_table_;
};

void BenchPrefill(const std::vector<std::string>& args) {
  const double product = ProductRate(args.empty() ? "libcublasLt.so.13" : args[0]);
  const std::string filter = args.size() > 1 ? args[1] : "";
  std::printf("# 8192^3 product %.0f TFLOP/s\n", product);
  const auto report = [&](const char* name, int requests, int chunk, int history, double uniform,
                          double ragged) {
    std::printf(
        "%-22s %dx c=%-5d history %-6d uniform %4.0f TFLOP/s (%.2f of product)  ragged %4.0f"
        " (%.3f of uniform)\n",
        name, requests, chunk, history, uniform, uniform / product, ragged, ragged / uniform);
  };
  struct Model {
    const char* name;
    int q_heads, kv_heads;
  };
  for (const Model& m : {Model{"32/8 heads, d=128", 32, 8}, Model{"28/4 heads, d=128", 28, 4}}) {
    PrefillBench bench(m.q_heads, m.kv_heads, 128);
    for (const auto& [requests, chunk] :
         {std::pair{1, 8192}, {1, 2048}, {4, 2048}, {1, 512}, {1, 256}}) {
      for (int history : {0, 8192, 32768}) {
        const std::string row = std::string(m.name) + " c=" + std::to_string(chunk) + " history " +
                                std::to_string(history);
        if (row.find(filter) == std::string::npos) continue;
        std::vector<int> uniform(m.kv_heads, history), ragged;
        for (int h = 0; h < m.kv_heads; ++h) {
          ragged.push_back(int(history * (0.3 + 1.4 * h / (m.kv_heads - 1))));
        }
        report(m.name, requests, chunk, history, bench.Rate(requests, chunk, uniform, false),
               bench.Rate(requests, chunk, ragged, false));
      }
    }
    if (!filter.empty()) continue;
    std::printf("%-22s simple kernel, c=2048 history 8192: %.0f TFLOP/s\n", m.name,
                bench.Rate(1, 2048, std::vector<int>(m.kv_heads, 8192), true));
  }
}

constexpr Benchmark kBenchmarks[] = {
    {"prefill",
     "[LIBRARY [FILTER]]: prefill attention behind a paged history, against the 8192^3 product; "
     "FILTER is part of 'N/M heads, d=D c=CHUNK history LENGTH'",
     BenchPrefill},
};

}  // namespace

std::span<const Benchmark> PrefillBenchmarks() { return kBenchmarks; }

}  // namespace tangram::bench
