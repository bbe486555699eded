#include <algorithm>
#include <vector>

#include "bench/cuda/bench.h"
#include "ops/cuda/check.h"
#include "ops/cuda/device_array.h"

namespace tangram::bench {
namespace {

__global__ void SpinKernel(long long nanoseconds) {
  long long start, now;
  asm volatile("mov.u64 %0, %globaltimer;" : "=l"(start));
  do {
    asm volatile("mov.u64 %0, %globaltimer;" : "=l"(now));
  } while (now - start < nanoseconds);
}

// Each block reads whole blocks of `block_vectors` 16-byte vectors, chosen by `ids` (or in order).
// Eight loads per thread are in flight; the sum keeps them from being dropped.
__global__ void __launch_bounds__(512)
    ReadKernel(const int4* pool, const int* ids, int num_ids, int block_vectors, int4* sink) {
  int4 sum = {0, 0, 0, 0};
  const int vectors_per_step = 8 * blockDim.x;
  const int blocks_per_step = vectors_per_step / block_vectors;
  for (int first = blockIdx.x * blocks_per_step; first < num_ids;
       first += gridDim.x * blocks_per_step) {
    int4 value[8];
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const int vector = i * blockDim.x + threadIdx.x;
      const int slot = first + vector / block_vectors;
      const long long id = slot < num_ids ? (ids != nullptr ? ids[slot] : slot) : 0;
      value[i] = __ldcs(pool + id * block_vectors + vector % block_vectors);
    }
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      sum.x ^= value[i].x;
      sum.y ^= value[i].y;
      sum.z ^= value[i].z;
      sum.w ^= value[i].w;
    }
  }
  if ((sum.x ^ sum.y ^ sum.z ^ sum.w) == 0x12345677) sink[threadIdx.x] = sum;
}

double ReadRate(const int4* pool, size_t pool_bytes, int block_bytes, bool random) {
  const int num_blocks = static_cast<int>(pool_bytes / block_bytes);
  const int num_reads = static_cast<int>((size_t{2} << 30) / block_bytes);
  std::vector<int> host(num_reads);
  uint64_t state = 88172645463325252ull;
  for (int& id : host) {
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    id = static_cast<int>(state % num_blocks);
  }
  ops::cuda::DeviceArray<int> ids(host);
  ops::cuda::DeviceArray<int4> sink(512);
  cudaDeviceProp properties;
  TANGRAM_CUDA_CHECK(cudaGetDeviceProperties(&properties, 0));
  double best = 0;
  for (int blocks_per_sm : {2, 4}) {
    const float us = MedianMicroseconds(2, 7, [&](int, cudaStream_t stream) {
      ReadKernel<<<properties.multiProcessorCount * blocks_per_sm, 512, 0, stream>>>(
          pool, random ? ids.data() : nullptr, num_reads, block_bytes / 16, sink.data());
      TANGRAM_CUDA_CHECK_LAUNCH();
    });
    best = std::max(best, 1e-6 * num_reads * static_cast<double>(block_bytes) / us);
  }
  return best;
}

}  // namespace

float MedianMicroseconds(int warmup, int repeats,
                         const std::function<void(int, cudaStream_t)>& launch) {
  cudaStream_t stream;
  TANGRAM_CUDA_CHECK(cudaStreamCreate(&stream));
  std::vector<cudaEvent_t> begin(repeats), end(repeats);
  for (int i = 0; i < repeats; ++i) {
    TANGRAM_CUDA_CHECK(cudaEventCreate(&begin[i]));
    TANGRAM_CUDA_CHECK(cudaEventCreate(&end[i]));
  }
  for (int i = 0; i < warmup; ++i) launch(i, stream);
  for (int i = 0; i < repeats; ++i) {
    SpinKernel<<<1, 1, 0, stream>>>(20000);
    TANGRAM_CUDA_CHECK(cudaEventRecord(begin[i], stream));
    launch(warmup + i, stream);
    TANGRAM_CUDA_CHECK(cudaEventRecord(end[i], stream));
  }
  TANGRAM_CUDA_CHECK(cudaStreamSynchronize(stream));
  std::vector<float> times(repeats);
  for (int i = 0; i < repeats; ++i) {
    TANGRAM_CUDA_CHECK(cudaEventElapsedTime(&times[i], begin[i], end[i]));
    cudaEventDestroy(begin[i]);
    cudaEventDestroy(end[i]);
  }
  cudaStreamDestroy(stream);
  std::nth_element(times.begin(), times.begin() + repeats / 2, times.end());
  return 1000 * times[repeats / 2];
}

float GraphMicroseconds(int count, int replays,
                        const std::function<void(int, cudaStream_t)>& launch, float warmup_us) {
  cudaStream_t stream;
  TANGRAM_CUDA_CHECK(cudaStreamCreate(&stream));
  launch(0, stream);
  TANGRAM_CUDA_CHECK(cudaStreamSynchronize(stream));
  cudaGraph_t graph;
  cudaGraphExec_t exec;
  TANGRAM_CUDA_CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  for (int i = 0; i < count; ++i) launch(i, stream);
  TANGRAM_CUDA_CHECK(cudaStreamEndCapture(stream, &graph));
  TANGRAM_CUDA_CHECK(cudaGraphInstantiate(&exec, graph, 0));
  auto replay = [&](int, cudaStream_t timed) { TANGRAM_CUDA_CHECK(cudaGraphLaunch(exec, timed)); };
  // The clocks take their time to rise again after the host has prepared a case.
  const int warmup =
      static_cast<int>(std::min(1000.0f, warmup_us / MedianMicroseconds(1, 1, replay))) + 1;
  const float us = MedianMicroseconds(warmup, replays, replay);
  cudaGraphExecDestroy(exec);
  cudaGraphDestroy(graph);
  cudaStreamDestroy(stream);
  return us / count;
}

Ceilings MeasureCeilings() {
  size_t free_bytes, total_bytes;
  TANGRAM_CUDA_CHECK(cudaMemGetInfo(&free_bytes, &total_bytes));
  const size_t pool_bytes = std::min(free_bytes / 2, size_t{32} << 30) >> 20 << 20;
  ops::cuda::DeviceArray<int4> pool(pool_bytes / 16);
  pool.FillBytes(0x3c);
  Ceilings result;
  const size_t half = size_t{2} << 30;
  const float us = MedianMicroseconds(2, 7, [&](int, cudaStream_t stream) {
    TANGRAM_CUDA_CHECK(cudaMemcpyAsync(pool.data(), pool.data() + half / 16, half,
                                       cudaMemcpyDeviceToDevice, stream));
  });
  result.copy = 1e-6 * 2 * half / us;
  result.linear_read = ReadRate(pool.data(), pool_bytes, 8192, false);
  result.random_8k = ReadRate(pool.data(), pool_bytes, 8192, true);
  result.random_4k = ReadRate(pool.data(), pool_bytes, 4096, true);
  return result;
}

std::string DescribeDevice() {
  cudaDeviceProp properties;
  int driver = 0;
  TANGRAM_CUDA_CHECK(cudaGetDeviceProperties(&properties, 0));
  TANGRAM_CUDA_CHECK(cudaDriverGetVersion(&driver));
  return std::string(properties.name) + ", " + std::to_string(properties.multiProcessorCount) +
         " SMs, driver " + std::to_string(driver / 1000) + "." + std::to_string(driver % 1000 / 10);
}

}  // namespace tangram::bench
