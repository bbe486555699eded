#pragma once

#include "ops/cuda/launch.cuh"

// The thread blocks that sample a row together, and what they tell each other.

namespace tangram::ops::cuda::sampling {

constexpr int kThreads = 512;
constexpr int kWarps = kThreads / 32;
constexpr unsigned kMostBlocks = 8;  // that every GPU with clusters has in one

using Wide = unsigned long long;

using cuda::ReadFromCluster;  // of floats

#if __CUDA_ARCH__ >= 900
__device__ __forceinline__ uint32_t AddressInCluster(const void* p, unsigned rank) {
  uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(p));
  asm volatile("mapa.shared::cluster.u32 %0, %0, %1;" : "+r"(address) : "r"(rank));
  return address;
}
#endif

__device__ __forceinline__ uint32_t ReadFromCluster(const uint32_t* p, unsigned rank) {
#if __CUDA_ARCH__ >= 900
  uint32_t value;
  asm volatile("ld.shared::cluster.u32 %0, [%1];"
               : "=r"(value)
               : "r"(AddressInCluster(p, rank))
               : "memory");
  return value;
#else
  return *p;
#endif
}

__device__ __forceinline__ Wide ReadFromCluster(const Wide* p, unsigned rank) {
#if __CUDA_ARCH__ >= 900
  Wide value;
  asm volatile("ld.shared::cluster.u64 %0, [%1];"
               : "=l"(value)
               : "r"(AddressInCluster(p, rank))
               : "memory");
  return value;
#else
  return *p;
#endif
}

__device__ __forceinline__ int ReadFromCluster(const int* p, unsigned rank) {
  return static_cast<int>(ReadFromCluster(reinterpret_cast<const uint32_t*>(p), rank));
}

// What each warp has found, for the others. Two sets in turn: by the time that a set is written
// again, its readers have met once more. Those of the block alone are apart, since a block may
// meet itself many times while another still reads.
struct Partials {
  Wide of_team[2][kWarps], of_block[2][kWarps];
};

// A row's blocks: a cluster, or one block. All threads of all of them call Sync, Sum and Max
// together, and all threads of a block what ends in InBlock, so that whether they do must follow
// from what all of these know.
struct Team {
  unsigned size, rank;
  Partials* partials;
  unsigned turn = 0, block_turn = 0;

  // Orders the accesses of all threads to shared and global memory.
  __device__ __forceinline__ void Sync() const {
    if (size == 1) {
      __syncthreads();
    } else {
      ArriveAtCluster();
      WaitForCluster();
    }
  }

  // `here` as the block of that rank has it.
  template <class T>
  __device__ __forceinline__ T Read(const T& here, unsigned of) const {
    return size == 1 ? here : ReadFromCluster(&here, of);
  }

  // Of the values of all threads of all blocks, or of this one. All threads get it.
  __device__ __forceinline__ Wide Sum(Wide value) { return Reduce(value, Add); }
  __device__ __forceinline__ Wide Max(Wide value) { return Reduce(value, Larger); }
  __device__ __forceinline__ Wide SumInBlock(Wide value) { return ReduceInBlock(value, Add); }
  __device__ __forceinline__ Wide MaxInBlock(Wide value) { return ReduceInBlock(value, Larger); }

 private:
  __device__ __forceinline__ static Wide Add(Wide a, Wide b) { return a + b; }
  __device__ __forceinline__ static Wide Larger(Wide a, Wide b) { return a > b ? a : b; }

  // 0 is the neutral element.
  template <class F>
  __device__ __forceinline__ Wide Reduce(Wide value, const F& combine) {
    const unsigned lane = threadIdx.x % 32;
    Wide* const set = partials->of_team[turn++ % 2];
    value = ReduceWarp(value, combine);
    if (lane == 0) set[threadIdx.x / 32] = value;
    Sync();
    value = 0;
    for (unsigned i = lane; i < size * kWarps; i += 32) {
      value = combine(value, Read(set[i % kWarps], i / kWarps));
    }
    return ReduceWarp(value, combine);
  }
  template <class F>
  __device__ __forceinline__ Wide ReduceInBlock(Wide value, const F& combine) {
    const unsigned lane = threadIdx.x % 32;
    Wide* const set = partials->of_block[block_turn++ % 2];
    value = ReduceWarp(value, combine);
    if (lane == 0) set[threadIdx.x / 32] = value;
    __syncthreads();
    return ReduceWarp(lane < kWarps ? set[lane] : 0, combine);
  }
  template <class F>
  __device__ __forceinline__ static Wide ReduceWarp(Wide value, const F& combine) {
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) {
      value = combine(value, __shfl_xor_sync(~0u, value, offset));
    }
    return value;
  }
};

}  // namespace tangram::ops::cuda::sampling
