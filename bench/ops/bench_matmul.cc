// Matrix products of SmolLM2-135M's shapes on one thread: GFLOP/s, share of the f32 FMA rate that a
// core reaches (AVX2), GB/s of weights. All by the thread's CPU time, so that a busy machine spoils
// little.
// `--benchmark_filter=q4_1` and the like choose.

#include <benchmark/benchmark.h>
#include <immintrin.h>

#include <ctime>
#include <random>

#include "ops/backend.h"

namespace tangram::ops {
namespace {

struct MatMulShape {
  const char* name;
  int64_t outputs, depth;
};
constexpr MatMulShape kShapes[] = {{"qkv", 960, 576},
                                   {"o", 576, 576},
                                   {"gate_up", 3072, 576},
                                   {"down", 576, 1536},
                                   {"head", 49152, 576}};

Backend& Cpu() {
  static const std::unique_ptr<Backend> backend = CreateCpuBackend(1);
  return *backend;
}

double CpuSeconds() {
  timespec now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

// Seconds of `rounds` FMAs in each of ten independent chains of 8 lanes: latency 4 to 5, two a
// cycle.
double FmaSeconds(int64_t rounds) {
  const __m256 factor = _mm256_set1_ps(0.999f);
  __m256 a = factor, b = a, c = a, d = a, e = a, f = a, g = a, h = a, i = a, j = a;
  const auto step = [&](__m256& sum) {
    sum = _mm256_fmadd_ps(sum, factor, factor);
    asm volatile("" : "+x"(sum));  // keeps the chain, in its register
  };
  const double start = CpuSeconds();
  for (int64_t round = 0; round < rounds; ++round) {
    step(a), step(b), step(c), step(d), step(e), step(f), step(g), step(h), step(i), step(j);
  }
  return CpuSeconds() - start;
}

// f32 GFLOP/s of AVX2 FMAs on one core: the best of a few tries.
double FmaPeak() {
  static const double peak = [] {
    constexpr int64_t kRounds = 1000000;
    double best = 0;
    for (int i = 0; i < 5; ++i)
      best = std::max(best, kRounds * 10 * 16 / FmaSeconds(kRounds) * 1e-9);
    return best;
  }();
  return peak;
}

void BM_MatMul(benchmark::State& state, DType type, MatMulShape shape) {
  const int64_t rows = state.range(0);
  Backend& backend = Cpu();
  // Several copies, so that weights come from memory as in a model, not from the cache.
  const int64_t copies =
      rows == 1
          ? std::max<int64_t>(
                1, (64 << 20) / static_cast<int64_t>(BytesFor(type, shape.outputs * shape.depth)))
          : 1;
  std::mt19937 random(1);
  std::vector<uint8_t> bytes(BytesFor(type, shape.outputs * shape.depth));
  for (uint8_t& b : bytes)
    b = static_cast<uint8_t>(random() & 0x3B);  // scales stay small and finite
  std::vector<TensorView> weights;
  for (int64_t i = 0; i < copies; ++i) {
    weights.push_back(backend.Upload({bytes.data(), type, {shape.outputs, shape.depth}}));
  }
  const Buffer x = backend.Allocate(rows * shape.depth * 4),
               out = backend.Allocate(rows * shape.outputs * 4);
  for (int64_t i = 0; i < rows * shape.depth; ++i) {
    static_cast<float*>(x.data())[i] = static_cast<float>(random() % 1000) * 0.001f - 0.5f;
  }
  size_t next = 0;
  for (auto _ : state) {
    backend.MatMul({x.View(DType::kF32, {rows, shape.depth}),
                    weights[next],
                    {},
                    out.View(DType::kF32, {rows, shape.outputs})});
    next = (next + 1) % weights.size();
  }
  const double flop = 2.0 * rows * shape.outputs * shape.depth;
  state.counters["GFLOP/s"] =
      benchmark::Counter(flop * 1e-9, benchmark::Counter::kIsIterationInvariantRate);
  state.counters["of_fma_peak"] =
      benchmark::Counter(flop * 1e-9 / FmaPeak(), benchmark::Counter::kIsIterationInvariantRate);
  state.counters["GB/s"] =
      benchmark::Counter(bytes.size() * 1e-9, benchmark::Counter::kIsIterationInvariantRate);
}

void RegisterAll() {
  for (const DType type : {DType::kQ4_1, DType::kQ8_0, DType::kQ4_0, DType::kQ4_K, DType::kQ5_K,
                           DType::kQ6_K, DType::kBF16, DType::kF32}) {
    for (const MatMulShape& shape : kShapes) {
      if (shape.depth % BlockSize(type) != 0) continue;
      const std::string name = std::string(DTypeName(type)) + "/" + shape.name;
      benchmark::RegisterBenchmark(name.c_str(),
                                   [=](benchmark::State& s) { BM_MatMul(s, type, shape); })
          ->Arg(1)
          ->Arg(4)
          ->Arg(16)
          ->Arg(512)
          ->Unit(benchmark::kMicrosecond);
    }
  }
}

}  // namespace
}  // namespace tangram::ops

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  tangram::ops::RegisterAll();
  benchmark::RunSpecifiedBenchmarks();
}
