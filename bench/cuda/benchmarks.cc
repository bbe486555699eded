#include <cstdio>
#include <cstdlib>

#include "bench/cuda/bench.h"

namespace tangram::bench {

std::vector<Benchmark> CudaBenchmarks() {
  std::vector<Benchmark> all;
  for (std::span<const Benchmark> family :
       {DecodeBenchmarks(), CompressBenchmarks(), ChainBenchmarks(), GemmBenchmarks(),
        PrefillBenchmarks(), StepBenchmarks(), FloorBenchmarks()}) {
    all.insert(all.end(), family.begin(), family.end());
  }
  return all;
}

int ChunkArgument(const std::string& text, int tokens) {
  const int chunk = std::atoi(text.c_str());
  if (chunk < 64 || chunk % 64 != 0 || tokens % chunk != 0) {
    std::fprintf(stderr, "%s: not a chunk: a multiple of 64 that divides %d is\n", text.c_str(),
                 tokens);
    std::exit(2);
  }
  return chunk;
}

std::string DeviceProblem() {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status != cudaSuccess) return cudaGetErrorString(status);
  return count == 0 ? "there is none" : "";
}

bool RunCudaBenchmark(const std::string& name, const std::vector<std::string>& args) {
  for (const Benchmark& benchmark : CudaBenchmarks()) {
    if (name != benchmark.name) continue;
    std::printf("# %s: %s\n", name.c_str(), DescribeDevice().c_str());
    benchmark.run(args);
    return true;
  }
  return false;
}

}  // namespace tangram::bench
