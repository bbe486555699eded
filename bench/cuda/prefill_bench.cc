#include <cuda_fp8.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <numeric>
#include <random>

#include "base/check.h"
#include "bench/cuda/bench.h"
#include "ops/cuda/attention/prefill.h"
#include "ops/cuda/device.h"
#include "ops/cuda/device_array.h"
#include "ops/cuda/gemm/cublaslt.h"

// `bench prefill [LIBRARY [FILTER]]`: prefill attention of one layer, chunks behind a history of
// pages in random order, against the 8192^3 matrix product. Calls take sequences in turn, so many
// that the queries, keys and values of all of them are beyond the L2 cache: no call finds there
// what an earlier one read.

namespace tangram::bench {
namespace {

using namespace ops::cuda;

constexpr double kBytesInTurn = 200e6;  // at least; four times the L2 cache of an H100
constexpr size_t kPoolBytes = size_t{1} << 30;
constexpr int kMaxTokens = 1 << 15;  // of the calls in turn
// A card that is at its limit of power lowers its clocks within so long: every rate is one that it
// keeps up.
constexpr double kWarmupMicroseconds = 80000;

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
    const auto run = [&](int, cudaStream_t stream) {
      (*library)->Run(*plan, args, workspace.data(), stream);
    };
    const int warmup = static_cast<int>(kWarmupMicroseconds / MedianMicroseconds(1, 1, run));
    best = std::min(best, MedianMicroseconds(warmup, 15, run));
  }
  return 2e-6 * n * n * n / best;
}

struct Model {
  const char* name;
  int q_heads, kv_heads, dim;
  DType dtype = DType::kBF16;
};

enum class Kernel { kTuned, kTunedInvariant, kSimple };

// `requests` chunks of `chunk` tokens in a call; head h has history[h] keys before them.
struct Call {
  int requests, chunk;
  std::vector<int> history;
  Kernel kernel = Kernel::kTuned;
};

struct Timing {
  double tflops, us;
  double plan_us;  // of the host, one layer
};

Timing Mean(const Timing& a, const Timing& b) {
  return {2 / (1 / a.tflops + 1 / b.tflops), (a.us + b.us) / 2, (a.plan_us + b.plan_us) / 2};
}

// Repeats `values` over the array.
template <class T, class Array>
void FillRepeating(Array& array, const std::vector<T>& values) {
  char* to = reinterpret_cast<char*>(array.data());
  size_t filled = std::min(values.size() * sizeof(T), array.bytes());
  TANGRAM_CUDA_CHECK(cudaMemcpy(to, values.data(), filled, cudaMemcpyHostToDevice));
  while (filled < array.bytes()) {
    const size_t more = std::min(filled, array.bytes() - filled);
    TANGRAM_CUDA_CHECK(cudaMemcpy(to + filled, to, more, cudaMemcpyDeviceToDevice));
    filled += more;
  }
}

double MedianPlanMicroseconds(const std::function<void()>& plan) {
  std::vector<double> times(5);
  for (double& us : times) {
    const auto start = std::chrono::steady_clock::now();
    plan();
    us =
        std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start).count();
  }
  std::nth_element(times.begin(), times.begin() + 2, times.end());
  return times[2];
}

class PrefillBench {
 public:
  explicit PrefillBench(const Model& model)
      : model_(model),
        pool_(kPoolBytes),
        qkv_(size_t{kMaxTokens} * (model.q_heads + 2 * model.kv_heads) * model.dim),
        out_(size_t{kMaxTokens} * model.q_heads * model.dim),
        columns_(model.kv_heads, 0) {
    std::vector<__nv_bfloat16> random(size_t{1} << 22);
    std::mt19937 generator(4);
    std::normal_distribution<float> normal;
    for (auto& v : random) v = __float2bfloat16(normal(generator));
    FillRepeating(qkv_, random);
    if (model.dtype == DType::kF8E4M3) {
      std::vector<__nv_fp8_e4m3> small;
      for (auto v : random) small.push_back(__nv_fp8_e4m3(__bfloat162float(v)));
      FillRepeating(pool_, small);
    } else {
      FillRepeating(pool_, random);
    }
    page_ids_.resize(kPoolBytes / PageBytes());
    std::iota(page_ids_.begin(), page_ids_.end(), 0);
    std::shuffle(page_ids_.begin(), page_ids_.end(), std::mt19937(3));
    rows_.resize(model.kv_heads);
    std::iota(rows_.begin(), rows_.end(), 0);
  }

  Timing Time(const Call& call) {
    // Off Hopper the plain kernel is all there is, and it takes invariant plans only.
    const bool invariant = call.kernel != Kernel::kTuned || !RunsHopperCode();
    const int copies = Copies(call), tokens = call.requests * call.chunk;
    TANGRAM_CHECK(copies * tokens <= kMaxTokens, "{} x {} tokens", copies, tokens);
    const int longest = *std::max_element(call.history.begin(), call.history.end());
    const int max_pages = (longest + call.chunk + kPageTokens - 1) / kPageTokens;
    const DeviceArray<int32_t> page_table(DealPages(call, copies, max_pages));

    // One plan for all: the copies differ in where their page table and their queries begin.
    std::vector<PrefillSequence> sequences;
    for (int r = 0; r < call.requests; ++r) {
      sequences.push_back({r, r * call.chunk, call.chunk, call.history.data()});
    }
    const int blocks = CurrentDevice().num_sms;
    PrefillPlan plan;
    const double plan_us = MedianPlanMicroseconds([&] {
      plan = PlanPrefill({model_.q_heads, model_.kv_heads, rows_.data(), columns_.data(),
                          model_.kv_heads, max_pages},
                         sequences, blocks, invariant);
    });
    const DeviceArray<PrefillItem> items(plan.items);
    const DeviceArray<int32_t> ranges(plan.ranges);
    const DeviceArray<PrefillMerge> merges(plan.merges);
    const DeviceArray<float> scratch(PrefillScratchBytes(plan, model_.dim) / sizeof(float));
    const bool fp8 = model_.dtype == DType::kF8E4M3;
    const DeviceArray<PrefillRow> rows(plan.rows);
    const DeviceArray<__nv_bfloat16> expanded(fp8 ? plan.num_pages * 2 * kPageTokens * model_.dim
                                                  : 0);
    const auto launch = [&](int i, cudaStream_t stream) {
      const size_t first = size_t{1} * (i % copies) * tokens;
      const int32_t* pages = page_table.data() +
                             size_t{1} * (i % copies) * call.requests * model_.kv_heads * max_pages;
      const PrefillArgs args{
          qkv_.data() + first * (model_.q_heads + 2 * model_.kv_heads) * model_.dim,
          out_.data() + first * model_.q_heads * model_.dim,
          tokens,
          model_.q_heads,
          model_.kv_heads,
          1 / std::sqrt(float(model_.dim)),
          {pool_.data(), model_.dtype, model_.dim, 1, int64_t(page_ids_.size()), pages,
           model_.kv_heads, max_pages, nullptr, nullptr},
          items.data(),
          int(items.size()),
          ranges.data(),
          blocks,
          merges.data(),
          int(merges.size()),
          scratch.data(),
          rows.data(),
          int(rows.size()),
          expanded.data(),
          fp8 ? plan.num_pages : 0};
      call.kernel == Kernel::kSimple ? RunPrefillSimple(args, stream) : RunPrefill(args, stream);
    };
    const double about = MedianMicroseconds(1, 1, launch);
    const int warmup = std::max(copies, int(std::min(10000., kWarmupMicroseconds / about)));
    const double us = MedianMicroseconds(warmup, about < 1000 ? 25 : 9, launch);
    return {1e-6 * Flops(call) / us, us, plan_us};
  }

 private:
  int64_t PageBytes() const {
    return int64_t{2} * kPageTokens * model_.dim * (model_.dtype == DType::kBF16 ? 2 : 1);
  }

  // Pages of one call.
  int64_t NumPages(const Call& call) const {
    int64_t pages = 0;
    for (int h : call.history) pages += (h + call.chunk + kPageTokens - 1) / kPageTokens;
    return pages * call.requests;
  }

  int Copies(const Call& call) const {
    const double queries = 2. * call.requests * call.chunk * model_.q_heads * model_.dim;
    const double bytes = queries + 1. * NumPages(call) * PageBytes();
    return static_cast<int>(std::ceil(kBytesInTurn / bytes));
  }

  // [copies][requests][Hkv][max_pages], every page in one row only.
  std::vector<int32_t> DealPages(const Call& call, int copies, int max_pages) const {
    TANGRAM_CHECK(copies * NumPages(call) <= int64_t(page_ids_.size()), "{} x {} pages", copies,
                  NumPages(call));
    std::vector<int32_t> table(size_t{1} * copies * call.requests * model_.kv_heads * max_pages, 0);
    auto next = page_ids_.begin();
    for (size_t row = 0; row * max_pages < table.size(); ++row) {
      const int keys = call.history[row % model_.kv_heads] + call.chunk;
      const int pages = (keys + kPageTokens - 1) / kPageTokens;
      std::copy(next, next + pages, table.begin() + row * max_pages);
      next += pages;
    }
    return table;
  }

  double Flops(const Call& call) const {
    double flops = 0;
    for (int h : call.history) {
      flops += 4.0 * model_.dim * (model_.q_heads / model_.kv_heads) * call.requests * call.chunk *
               (h + (call.chunk + 1) / 2.0);
    }
    return flops;
  }

  Model model_;
  DeviceArray<char> pool_;
  DeviceArray<__nv_bfloat16> qkv_, out_;
  std::vector<int32_t> rows_, columns_, page_ids_;
};

struct Lengths {
  int requests, chunk, history;
};

class Table {
 public:
  Table(double product, std::string filter) : product_(product), filter_(std::move(filter)) {}

  // Heads of equal histories, and of histories from 0.3 to 1.7 times the mean.
  void AddRow(PrefillBench& bench, const Model& model, const Lengths& lengths,
              Kernel kernel) const {
    const auto& [requests, chunk, history] = lengths;
    const char* kind = kernel == Kernel::kTunedInvariant ? ", invariant"
                       : kernel == Kernel::kSimple       ? ", plain kernel"
                                                         : "";
    const std::string name = std::string(model.name) + kind;
    const std::string row =
        name + " c=" + std::to_string(chunk) + " history " + std::to_string(history);
    if (row.find(filter_) == std::string::npos) return;
    std::vector<int> uniform(model.kv_heads, history), ragged;
    for (int h = 0; h < model.kv_heads; ++h) {
      ragged.push_back(int(history * (0.3 + 1.4 * h / (model.kv_heads - 1))));
    }
    // In turn, so that what drifts does so for both.
    const Call call{requests, chunk, uniform, kernel}, other{requests, chunk, ragged, kernel};
    const Timing first = bench.Time(call), second = bench.Time(other), third = bench.Time(other),
                 last = bench.Time(call);
    const Timing u = Mean(first, last), r = Mean(second, third);
    std::printf(
        "%-31s %dx c=%-5d history %-6d uniform %4.0f TFLOP/s (%.2f of product) %7.1f us  "
        "ragged %4.0f (%.3f of uniform) %7.1f us  plan on the host %4.0f / %4.0f us\n",
        name.c_str(), requests, chunk, history, u.tflops, u.tflops / product_, u.us, r.tflops,
        r.tflops / u.tflops, r.us, u.plan_us, r.plan_us);
  }

 private:
  double product_;
  std::string filter_;
};

void BenchPrefill(const std::vector<std::string>& args) {
  const double product = ProductRate(args.empty() ? "libcublasLt.so.13" : args[0]);
  std::printf("# 8192^3 product %.0f TFLOP/s\n", product);
  const Table table(product, args.size() > 1 ? args[1] : "");
  // The calls that the other modes and types are timed at.
  constexpr Lengths kSome[] = {{1, 8192, 8192}, {1, 2048, 8192}, {1, 256, 8192}, {1, 256, 32768}};
  for (const Model& model :
       {Model{"32/8 heads, d=128", 32, 8, 128}, Model{"28/4 heads, d=128", 28, 4, 128}}) {
    PrefillBench bench(model);
    for (const auto& [requests, chunk] :
         {std::pair{1, 8192}, {1, 2048}, {4, 2048}, {1, 512}, {1, 256}}) {
      for (int history : {0, 8192, 32768}) {
        table.AddRow(bench, model, {requests, chunk, history}, Kernel::kTuned);
      }
    }
    for (const Lengths& lengths : kSome) {
      table.AddRow(bench, model, lengths, Kernel::kTunedInvariant);
    }
    table.AddRow(bench, model, {1, 2048, 8192}, Kernel::kSimple);
  }
  for (const Model& model : {Model{"32/8 heads, d=128, fp8", 32, 8, 128, DType::kF8E4M3},
                             Model{"32/8 heads, d=64", 32, 8, 64}}) {
    PrefillBench bench(model);
    for (const Lengths& lengths : kSome) table.AddRow(bench, model, lengths, Kernel::kTuned);
  }
}

constexpr Benchmark kBenchmarks[] = {
    {"prefill",
     "[LIBRARY [FILTER]]: prefill attention behind a paged history, against the 8192^3 product; "
     "FILTER is part of 'N/M heads, d=D[, fp8][, invariant] c=CHUNK history LENGTH'",
     BenchPrefill},
};

}  // namespace

std::span<const Benchmark> PrefillBenchmarks() { return kBenchmarks; }

}  // namespace tangram::bench
