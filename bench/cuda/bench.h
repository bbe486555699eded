#pragma once

#include <cuda_runtime.h>

#include <functional>
#include <span>
#include <string>
#include <vector>

namespace tangram::bench {

// A benchmark of the CUDA kernels; prints a table to stdout. `args` are what follows its name.
struct Benchmark {
  const char* name;
  const char* help;
  void (*run)(const std::vector<std::string>& args);
};

// One list for each family of kernels, and all of them in the order `tangram_gpu_check bench` lists
// them.
std::span<const Benchmark> DecodeBenchmarks();
std::span<const Benchmark> CompressBenchmarks();
std::span<const Benchmark> ChainBenchmarks();
std::span<const Benchmark> FloorBenchmarks();
std::span<const Benchmark> GemmBenchmarks();
std::span<const Benchmark> PrefillBenchmarks();
std::span<const Benchmark> StepBenchmarks();
std::vector<Benchmark> CudaBenchmarks();

// A compression chunk that the user named: a multiple of 64 that divides `tokens`. Exits with a
// message if it is not.
int ChunkArgument(const std::string& text, int tokens);

// Why no benchmark can run here, or nothing.
std::string DeviceProblem();
// Runs the one that is called `name`, under a line about the card; false if there is none.
bool RunCudaBenchmark(const std::string& name, const std::vector<std::string>& args);

// Median device time of `launch(i)` in microseconds over `repeats` timed calls, i counting up from
// 0 (the first `warmup` are not timed), so that a launch can rotate among inputs larger than the L2
// cache together. Each is timed alone between two events, behind a spin that lets the host run
// ahead.
float MedianMicroseconds(int warmup, int repeats,
                         const std::function<void(int, cudaStream_t)>& launch);

// Mean time in microseconds of one of `count` launches captured in a graph: what a launch costs
// inside a step. Before it is timed the graph runs for `warmup_us`, for the clocks to rise.
float GraphMicroseconds(int count, int replays,
                        const std::function<void(int, cudaStream_t)>& launch,
                        float warmup_us = 150000);

// The ceilings of the card, measured now, in TB/s.
struct Ceilings {
  double copy;  // device to device, bytes read plus written
  double linear_read;
  double random_8k;  // reads of random virtual pages: 8 KiB (bf16, d=128)
  double random_4k;  // 4 KiB (fp8)
};
Ceilings MeasureCeilings();

// "NVIDIA H100 80GB HBM3, 132 SMs, driver 13.0", to head every table.
std::string DescribeDevice();

}  // namespace tangram::bench
