#include <cstdio>
#include <numeric>

#include "bench/cuda/bench.h"
#include "ops/cuda/check.h"
#include "ops/cuda/device_array.h"
#include "ops/cuda/launch.cuh"

// `bench floors`: what a link of a graph's chain costs that does next to nothing, so that a
// kernel's time can be held against what no kernel of its shape goes below.

namespace tangram::bench {
namespace {

using namespace ops::cuda;

struct FloorArgs {
  const int* next;  // a permutation: each load's address comes from the load before
  int* sink;
  int early, late;  // dependent loads before the wait for the kernels before, and after
  bool trigger_first;
};

__global__ void ChainKernel(const FloorArgs a) {
  int at = blockIdx.x * 32;
  for (int i = 0; i < a.early; ++i) at = a.next[at];
  if (a.trigger_first) LaunchDependents();
  WaitForPriorKernels();
  if (!a.trigger_first) LaunchDependents();
  for (int i = 0; i < a.late; ++i) at = a.next[at];
  if (a.early + a.late > 0 && threadIdx.x == 0) a.sink[blockIdx.x] = at;
}

// Reads `vectors` 16-byte vectors, nothing else; waits for the kernels before at the start or the
// end.
__global__ void __launch_bounds__(512)
    ReadOnlyKernel(const int4* from, int64_t vectors, int4* sink, bool wait_first) {
  LaunchDependents();
  if (wait_first) WaitForPriorKernels();
  int4 sum = {0, 0, 0, 0};
  const int64_t begin = vectors * blockIdx.x / gridDim.x,
                end = vectors * (blockIdx.x + 1) / gridDim.x;
  for (int64_t at = begin + threadIdx.x; at < end; at += 8 * 512) {
    int4 value[8];
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      value[i] = at + i * 512 < end ? __ldcs(from + at + i * 512) : int4{0, 0, 0, 0};
    }
#pragma unroll
    for (int i = 0; i < 8; ++i) sum.x ^= value[i].x ^ value[i].y ^ value[i].z ^ value[i].w;
  }
  if (!wait_first) WaitForPriorKernels();
  if (sum.x == 0x12345677) sink[threadIdx.x] = sum;
}

float ReadMicroseconds(const DeviceArray<int4>& pool, int64_t bytes, bool wait_first) {
  static DeviceArray<int4> sink(512);
  const int copies = static_cast<int>(pool.bytes() / bytes);
  return GraphMicroseconds(24, 9, [&](int i, cudaStream_t stream) {
    LaunchChained(ReadOnlyKernel, 2 * CurrentDevice().num_sms, 512, stream,
                  pool.data() + i % copies * (bytes / 16), bytes / 16, sink.data(), wait_first);
  });
}

void BenchFloors(const std::vector<std::string>&) {
  std::vector<int> next(1 << 20);  // 4 MB: stays in L2
  for (size_t i = 0; i < next.size(); ++i)
    next[i] = static_cast<int>((i * 40503 + 12345) % next.size());
  const DeviceArray<int> device_next(next);
  DeviceArray<int> sink(1024);
  for (int blocks : {64, 132, 528}) {
    for (const bool trigger_first : {false, true}) {
      std::printf("chain of %3d blocks of 256, next starts %-15s", blocks,
                  trigger_first ? "at once:" : "after the wait:");
      for (const auto& [early, late] : {std::pair{0, 0}, {0, 1}, {0, 2}, {0, 3}, {0, 4}, {3, 1}}) {
        const float us = GraphMicroseconds(200, 9, [&](int, cudaStream_t stream) {
          LaunchChained(ChainKernel, blocks, 256, stream,
                        FloorArgs{device_next.data(), sink.data(), early, late, trigger_first});
        });
        std::printf("  %d+%d loads %.2f us", early, late, us);
      }
      std::printf("\n");
    }
  }
  DeviceArray<int4> pool((size_t{600} << 20) / 16);
  pool.FillBytes(0x3c);
  for (int64_t mb : {20, 31, 34, 40, 50, 80, 100, 117, 235}) {
    const float first = ReadMicroseconds(pool, mb * 1000000 / 16 * 16, true);
    const float last = ReadMicroseconds(pool, mb * 1000000 / 16 * 16, false);
    std::printf(
        "a kernel that only reads %3d MB: %6.2f us (%.2f TB/s) if it waits first, %6.2f us (%.2f "
        "TB/s) if last\n",
        static_cast<int>(mb), first, mb / first, last, mb / last);
  }
}

constexpr Benchmark kBenchmarks[] = {
    {"floors", "launches, dependent loads and plain reads in a graph's chain", BenchFloors},
};

}  // namespace

std::span<const Benchmark> FloorBenchmarks() { return kBenchmarks; }

}  // namespace tangram::bench
