#include <cstdio>

#include "bench/cuda/bench.h"

namespace tangram::bench {
namespace {

void BenchCeilings(const std::vector<std::string>&) {
  const Ceilings c = MeasureCeilings();
  std::printf("copy %.3f TB/s, linear read %.3f, random 8 KiB %.3f, random 4 KiB %.3f\n", c.copy,
              c.linear_read, c.random_8k, c.random_4k);
}

constexpr Benchmark kBenchmarks[] = {
    {"ceilings", "copy and read rates of the card", BenchCeilings},
};

}  // namespace

std::span<const Benchmark> CudaBenchmarks() { return kBenchmarks; }

}  // namespace tangram::bench
