#include <cstdio>

#include "bench/cuda/bench.h"
#include "ops/cuda/device_array.h"
#include "ops/cuda/sampling/sampling.h"
#include "ops/cuda/step/elementwise.h"

// `bench step`: what lies between the matrix products of a step, as links of a graph's chain, and
// sampling.

namespace tangram::bench {
namespace {

using namespace ops::cuda;
using Array = DeviceArray<__nv_bfloat16>;

constexpr int kCopies = 4;  // inputs in turn: beyond the L2 cache at 8192 tokens

void Report(const char* name, int tokens, float us, double bytes, double copy_rate) {
  std::printf("%-26s T=%-5d %8.2f us  %5.2f TB/s  %3.0f%% of copy\n", name, tokens, us,
              1e-6 * bytes / us, 100e-6 * bytes / us / copy_rate);
}

void BenchElementwise(double copy_rate) {
  const int width = 4096, inner = 14336, vocabulary = 128256;
  for (int tokens : {1, 16, 64, 8192}) {
    const size_t size = size_t(tokens) * width;
    Array x(kCopies * size), residual(kCopies * size), out(kCopies * size);
    Array gate_up(kCopies * size_t(tokens) * 2 * inner), product(kCopies * size_t(tokens) * inner);
    Array table(size_t(vocabulary) * width);
    for (Array* a : {&x, &residual, &gate_up, &table}) a->FillBytes(0x3c);
    DeviceArray<float> weight(width);
    weight.FillBytes(0x3c);
    std::vector<int32_t> ids(tokens);
    for (int i = 0; i < tokens; ++i) ids[i] = int(i * 7919ll % vocabulary);
    DeviceArray<int32_t> rows(ids);
    Report("rms norm + residual, 4096", tokens,
           GraphMicroseconds(32, 5,
                             [&](int i, cudaStream_t stream) {
                               const size_t at = i % kCopies * size;
                               RunRmsNorm({x.data() + at, residual.data() + at, weight.data(),
                                           out.data() + at, tokens, width, 1e-6f},
                                          stream);
                             }),
           8.0 * size, copy_rate);
    Report("silu * up, 14336", tokens,
           GraphMicroseconds(
               32, 5,
               [&](int i, cudaStream_t stream) {
                 const size_t at = i % kCopies * size_t(tokens) * inner;
                 RunSiluMul({gate_up.data() + 2 * at, product.data() + at, tokens, inner}, stream);
               }),
           6.0 * tokens * inner, copy_rate);
    Report("embedding, 4096", tokens,
           GraphMicroseconds(32, 5,
                             [&](int i, cudaStream_t stream) {
                               RunGatherRows({rows.data(), table.data(),
                                              out.data() + i % kCopies * size, tokens, width},
                                             stream);
                             }),
           4.0 * size, copy_rate);
  }
}

// The arrays of a sampling step of n rows, all drawn alike.
class SamplingBench {
 public:
  static constexpr int kVocabulary = 128256, kTop = 5;

  explicit SamplingBench(int n) : n_(n) {
    std::vector<float> host(size_t(n) * kVocabulary);
    uint32_t state = 1;
    for (float& v : host) {
      v = 0;  // about normal, standard deviation 2.3
      for (int i = 0; i < 4; ++i) state = state * 1664525u + 1013904223u, v += state * 0x1p-30f - 2;
    }
    logits_ = DeviceArray<float>(host);
    scratch_ = DeviceArray<float>(host.size());
    logprobs_ = DeviceArray<float>(n), top_logprobs_ = DeviceArray<float>(n * kTop);
    tokens_ = DeviceArray<int32_t>(n), drawn_ = DeviceArray<int32_t>(n);
    ranks_ = DeviceArray<int32_t>(n), top_tokens_ = DeviceArray<int32_t>(n * kTop);
    ops::SamplingInput lists;
    for (int i = 0; i < 1000; ++i) lists.seen.push_back({i * 101, i % 3});
    for (int i = 0; i < 100; ++i) lists.biases.push_back({i * 997, 0.5f});
    seen_ = DeviceArray<ops::SeenToken>(lists.seen);
    biases_ = DeviceArray<ops::TokenBias>(lists.biases);
  }

  float Microseconds(const ops::SamplingRow& row) {
    std::vector<ops::SamplingRow> rows(n_, row);
    for (int i = 0; i < n_; ++i) rows[i].logit_row = rows[i].slot = i, rows[i].seed = i;
    const DeviceArray<ops::SamplingRow> device_rows(rows);
    return MedianMicroseconds(2, 7, [&](int, cudaStream_t stream) {
      RunSampling({logits_.data(), kVocabulary, device_rows.data(), seen_.data(), biases_.data(),
                   nullptr, scratch_.data(), tokens_.data(), drawn_.data(), logprobs_.data(),
                   ranks_.data(), top_tokens_.data(), top_logprobs_.data(), kTop, n_, kVocabulary},
                  stream);
    });
  }

 private:
  int n_;
  DeviceArray<float> logits_, scratch_, logprobs_, top_logprobs_;
  DeviceArray<int32_t> tokens_, drawn_, ranks_, top_tokens_;
  DeviceArray<ops::SeenToken> seen_;
  DeviceArray<ops::TokenBias> biases_;
};

// As in a step, the logits of all but the largest batch still lie in the L2 cache. The share is
// that of reading them once from memory, which is what a sampler must do.
void BenchSampling(double read_rate) {
  struct Kind {
    const char* name;
    float temperature, top_p;
    int top_k, num_logprobs;
    bool adjusted = false;
  };
  for (int n : {1, 16, 64, 256}) {
    SamplingBench bench(n);
    for (const Kind& kind :
         {Kind{"greedy", 0, 1, 0, -1}, Kind{"greedy, 5 logprobs", 0, 1, 0, SamplingBench::kTop},
          Kind{"temperature", 0.8f, 1, 0, -1}, Kind{"top-k 50, top-p 0.9", 0.8f, 0.9f, 50, -1},
          Kind{"top-p 0.9", 0.8f, 0.9f, 0, -1}, Kind{"the same, 5 logprobs", 0.8f, 0.9f, 0, 5},
          Kind{"temperature, penalties", 0.8f, 1, 0, -1, true}}) {
      ops::SamplingRow row;
      row.temperature = kind.temperature, row.top_p = kind.top_p, row.top_k = kind.top_k;
      row.num_logprobs = kind.num_logprobs;
      if (kind.adjusted) row.num_seen = 1000, row.num_biases = 100, row.presence_penalty = 0.5f;
      const float us = bench.Microseconds(row);
      std::printf("sampling, %-22s S=%-4d %8.1f us  %4.1f%% of reading the logits once\n",
                  kind.name, n, us, 100e-6 * 4 * n * SamplingBench::kVocabulary / us / read_rate);
    }
  }
}

void BenchStep(const std::vector<std::string>&) {
  const Ceilings ceilings = MeasureCeilings();
  BenchElementwise(ceilings.copy);
  BenchSampling(ceilings.linear_read);
}

constexpr Benchmark kBenchmarks[] = {
    {"step", "norms, activation, embedding and sampling", BenchStep},
};

}  // namespace

std::span<const Benchmark> StepBenchmarks() { return kBenchmarks; }

}  // namespace tangram::bench
