// tangram bench attention|gemm|compress in a build without the CUDA backend.

#include <fmt/format.h>

#include "bench/bench_commands.h"
#include "exit_codes.h"

namespace tangram::apps::bench {

std::vector<KernelMeasurement> KernelMeasurements() {
  return {{"attention", "decode attention"},
          {"gemm", "matrix products at small batch"},
          {"compress", "scoring, selection and compaction"}};
}

int RunBenchKernels(const std::string& name, const Args&) {
  fmt::print(
      stderr,
      "error: tangram bench {} measures the CUDA backend, which this build lacks: run "
      "scripts/setup --cuda, then cmake --preset cuda && cmake --build --preset cuda, and use "
      "build/cuda/tangram\n",
      name);
  return kExitUsage;
}

}  // namespace tangram::apps::bench
