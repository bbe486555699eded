// tangram_gpu_check test [GoogleTest flags]   the GPU tests
// tangram_gpu_check bench NAME [ARGS]         a benchmark; without NAME, the list
#include <gtest/gtest.h>

#include <cstdio>
#include <string>
#include <vector>

#include "bench/cuda/bench.h"

namespace {

int RunBenchmark(const std::string& name, const std::vector<std::string>& args) {
  if (tangram::bench::RunCudaBenchmark(name, args)) return 0;
  std::fprintf(stderr, "benchmarks:\n");
  for (const tangram::bench::Benchmark& benchmark : tangram::bench::CudaBenchmarks()) {
    std::fprintf(stderr, "  %-12s %s\n", benchmark.name, benchmark.help);
  }
  return 2;
}

}  // namespace

int main(int argc, char** argv) {
  const std::string mode = argc > 1 ? argv[1] : "";
  if (const std::string problem = tangram::bench::DeviceProblem(); !problem.empty()) {
    std::fprintf(stderr, "no NVIDIA GPU: %s\n", problem.c_str());
    return 3;
  }
  if (mode == "bench") {
    return RunBenchmark(argc > 2 ? argv[2] : "", {argv + std::min(argc, 3), argv + argc});
  }
  if (mode != "test") {
    std::fprintf(stderr, "usage: %s test [--gtest_filter=...] | bench NAME [ARGS]\n", argv[0]);
    return 2;
  }
  testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
