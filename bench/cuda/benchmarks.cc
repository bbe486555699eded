#include "bench/cuda/bench.h"

namespace tangram::bench {

std::vector<Benchmark> CudaBenchmarks() {
  std::vector<Benchmark> all;
  for (std::span<const Benchmark> family :
       {DecodeBenchmarks(), CompressBenchmarks(), GemmBenchmarks(), PrefillBenchmarks(),
        StepBenchmarks()}) {
    all.insert(all.end(), family.begin(), family.end());
  }
  return all;
}

}  // namespace tangram::bench
