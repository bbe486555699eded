// tangram bench attention|gemm|compress ...: the kernels of the CUDA backend.

#include <fmt/format.h>

#include "bench/bench_commands.h"
#include "bench/cuda/bench.h"
#include "exit_codes.h"

namespace tangram::apps::bench {

std::vector<KernelMeasurement> KernelMeasurements() {
  std::vector<KernelMeasurement> all;
  for (const tangram::bench::Benchmark& b : tangram::bench::CudaBenchmarks())
    all.push_back({b.name, b.help});
  return all;
}

int RunBenchKernels(const std::string& name, const Args& args) {
  if (const std::string problem = tangram::bench::DeviceProblem(); !problem.empty()) {
    fmt::print(stderr, "error: tangram bench {} needs an NVIDIA GPU: {}\n", name, problem);
    return kExitUsage;
  }
  return tangram::bench::RunCudaBenchmark(name, args) ? kExitOk : kExitUsage;
}

}  // namespace tangram::apps::bench
