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

// As in a step, the logits of all but the largest batch still lie in the L2 cache. The share is
// that of reading them once from memory, which is what a sampler must do: one thread block a row
// reads them, or the scores, several times, so with few rows it is a latency.
void BenchSampling(double read_rate) {
  const int vocabulary = 151936;
  for (int n : {1, 64, 256}) {
    std::vector<__nv_bfloat16> host(size_t(n) * vocabulary);
    uint32_t state = 1;
    for (auto& v : host) {
      float sum = 0;  // about normal, standard deviation 2.3
      for (int i = 0; i < 4; ++i)
        state = state * 1664525u + 1013904223u, sum += state * 0x1p-30f - 2;
      v = __float2bfloat16(sum);
    }
    Array logits(host);
    DeviceArray<float> scratch(host.size()), logprobs(n), top_logprobs(n * 20);
    DeviceArray<int32_t> tokens(n), top_tokens(n * 20);
    struct Kind {
      const char* name;
      float temperature, top_p;
      int top_k;
      int num_top;
    };
    for (const Kind& kind : {Kind{"greedy", 0, 1, 0, 0}, Kind{"temperature", 1, 1, 0, 0},
                             Kind{"top-k 50, top-p 0.9", 1, 0.9f, 50, 0},
                             Kind{"top-p, 20 logprobs", 1, 0.9f, 0, 20}}) {
      std::vector<SamplingRow> rows(
          n, {kind.temperature, kind.top_p, 0, kind.top_k, 1, 0, 0, 0, 9, 0});
      DeviceArray<SamplingRow> device_rows(rows);
      const float us = MedianMicroseconds(2, 7, [&](int, cudaStream_t stream) {
        RunSampling({logits.data(), device_rows.data(), nullptr, nullptr, scratch.data(),
                     tokens.data(), kind.num_top > 0 ? logprobs.data() : nullptr, top_tokens.data(),
                     top_logprobs.data(), kind.num_top, n, vocabulary},
                    stream);
      });
      std::printf("sampling, %-22s S=%-4d %8.1f us  %4.1f%% of reading the logits once\n",
                  kind.name, n, us, 100e-6 * 2 * host.size() / us / read_rate);
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
