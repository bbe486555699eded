// tangram_gpu_check test [GoogleTest flags]   the GPU tests
// tangram_gpu_check bench NAME [ARGS]         a benchmark; without NAME, the list
// tangram_gpu_check all [GoogleTest flags]    the GPU tests, then each benchmark as it is without
// ARGS
//
// Exit codes: 1 a test failed, 2 usage, 3 no NVIDIA GPU.
#include <gtest/gtest.h>

#include <algorithm>
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
  if (mode != "test" && mode != "bench" && mode != "all") {
    std::fprintf(stderr, "usage: %s test|all [--gtest_filter=...] | bench [NAME [ARGS]]\n",
                 argv[0]);
    return 2;
  }
  if (mode == "bench" && argc == 2) return RunBenchmark("", {});
  if (const std::string problem = tangram::bench::DeviceProblem(); !problem.empty()) {
    std::fprintf(stderr, "no NVIDIA GPU: %s\n", problem.c_str());
    return 3;
  }
  if (mode == "bench") return RunBenchmark(argv[2], {argv + 3, argv + argc});
  testing::InitGoogleTest(&argc, argv);
  if (const int failed = RUN_ALL_TESTS(); failed != 0 || mode == "test") return failed;
  for (const tangram::bench::Benchmark& benchmark : tangram::bench::CudaBenchmarks()) {
    tangram::bench::RunCudaBenchmark(benchmark.name, {});
  }
  return 0;
}
