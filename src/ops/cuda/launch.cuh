#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <utility>

#include "ops/cuda/chain.h"
#include "ops/cuda/check.h"
#include "ops/cuda/device.h"

// Kernels of a step form a chain by programmatic dependent launch: each may start while its
// predecessor runs, lets its successor start at once, and waits for the predecessor before it
// touches anything that a kernel writes. Every kernel of the chain waits, so the wait covers all
// kernels before. In the code of other GPUs than Hopper both calls are nothing, and kernels follow
// each other as usual.

namespace tangram::ops::cuda {

__device__ __forceinline__ void WaitForPriorKernels() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

__device__ __forceinline__ void LaunchDependents() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// Blocks of a cluster wait for each other: what any wrote or read before it arrived lies before
// what another does after its wait. In the code of other GPUs than Hopper there are no clusters.
__device__ __forceinline__ void ArriveAtCluster() {
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
#endif
}
__device__ __forceinline__ void WaitForCluster() {
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
#endif
}

// What block `rank` of the cluster has at `p`, which points into this block's shared memory.
__device__ __forceinline__ float ReadFromCluster(const float* p, unsigned rank) {
  float value = *p;
#if __CUDA_ARCH__ >= 900
  uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(p));
  asm volatile("mapa.shared::cluster.u32 %0, %0, %1;" : "+r"(address) : "r"(rank));
  asm volatile("ld.shared::cluster.f32 %0, [%1];" : "=f"(value) : "r"(address) : "memory");
#endif
  return value;
}

// Launches a link of the chain, `cluster` blocks of it together (1 where !RunsHopperCode()),
// with `shared_bytes` of dynamic shared memory.
template <class Kernel, class... Args>
void LaunchChainedClusters(Kernel kernel, unsigned cluster, dim3 grid, dim3 block,
                           size_t shared_bytes, cudaStream_t stream, const Args&... args) {
  cudaLaunchAttribute attributes[2] = {};
  unsigned count = 0;
  const bool chained = !std::exchange(chain_broken, false);
  if (RunsHopperCode() && chained) {
    attributes[count].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[count++].val.programmaticStreamSerializationAllowed = 1;
  }
  if (RunsHopperCode() && cluster > 1) {
    attributes[count].id = cudaLaunchAttributeClusterDimension;
    attributes[count++].val.clusterDim = {cluster, 1, 1};
  }
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  config.attrs = attributes;
  config.numAttrs = count;
  TANGRAM_CUDA_CHECK(cudaLaunchKernelEx(&config, kernel, args...));
}

template <class Kernel, class... Args>
void LaunchChainedShared(Kernel kernel, dim3 grid, dim3 block, size_t shared_bytes,
                         cudaStream_t stream, const Args&... args) {
  LaunchChainedClusters(kernel, 1, grid, block, shared_bytes, stream, args...);
}

template <class Kernel, class... Args>
void LaunchChained(Kernel kernel, dim3 grid, dim3 block, cudaStream_t stream, const Args&... args) {
  LaunchChainedShared(kernel, grid, block, 0, stream, args...);
}

// The sum of `value` over the block (a multiple of 32 threads), in a fixed order; all threads get
// it.
__device__ __forceinline__ float BlockSum(float value) {
  __shared__ float warp_sums[32];
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) value += __shfl_xor_sync(~0u, value, offset);
  const int warps = blockDim.x / 32;
  if (threadIdx.x % 32 == 0) warp_sums[threadIdx.x / 32] = value;
  __syncthreads();
  value = static_cast<int>(threadIdx.x % 32) < warps ? warp_sums[threadIdx.x % 32] : 0.f;
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) value += __shfl_xor_sync(~0u, value, offset);
  __syncthreads();  // the next call may overwrite the sums
  return value;
}

}  // namespace tangram::ops::cuda
