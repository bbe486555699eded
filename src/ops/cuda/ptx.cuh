#pragma once

#include <cuda.h>
#include <cuda_bf16.h>

#include <cstdint>

#include "ops/cuda/ptx_sm90.cuh"

// More of Hopper's instructions (PTX ISA 9.0), with barriers given by pointer: clusters, tiles of
// two and three dimensions.

namespace tangram::ops::cuda::ptx {

// --- mbarrier: a count of arrivals and of bytes still to come, with a phase that flips when both
// are complete.

__device__ __forceinline__ void BarrierInit(uint64_t* bar, uint32_t arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(SharedAddress(bar)), "r"(arrivals));
}

__device__ __forceinline__ void BarrierArrive(uint64_t* bar) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(SharedAddress(bar)) : "memory");
}

__device__ __forceinline__ void BarrierArriveExpect(uint64_t* bar, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(SharedAddress(bar)),
               "r"(bytes)
               : "memory");
}

// Waits until the phase of parity `parity` is over. The hardware suspends the thread for a while on
// each try.
__device__ __forceinline__ void BarrierWait(uint64_t* bar, uint32_t parity) {
  asm volatile(
      "{\n.reg .pred done;\n"
      "wait_loop:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@!done bra wait_loop;\n}" ::"r"(SharedAddress(bar)),
      "r"(parity)
      : "memory");
}

// --- clusters: blocks that see each other's shared memory.

__device__ __forceinline__ void ClusterSync() {
  asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::
                   : "memory");
}

// The address of block `rank`'s counterpart of this block's `p`.
__device__ __forceinline__ uint32_t RemoteAddress(const void* p, int rank) {
  uint32_t address;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(address) : "r"(SharedAddress(p)), "r"(rank));
  return address;
}

__device__ __forceinline__ float4 LoadRemote(uint32_t address) {
  float4 v;
  asm volatile("ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [%4];"
               : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
               : "r"(address)
               : "memory");
  return v;
}

// Arrives at block `rank`'s barrier; what the thread's warp wrote before is visible to whoever
// waits there.
__device__ __forceinline__ void BarrierArriveRemote(uint64_t* bar, int rank) {
  asm volatile(
      "mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%0];" ::"r"(RemoteAddress(bar, rank))
      : "memory");
}

// BarrierWait for arrivals from the cluster.
__device__ __forceinline__ void BarrierWaitCluster(uint64_t* bar, uint32_t parity) {
  asm volatile(
      "{\n.reg .pred done;\n"
      "wait_loop:\n"
      "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 done, [%0], %1;\n"
      "@!done bra wait_loop;\n}" ::"r"(SharedAddress(bar)),
      "r"(parity)
      : "memory");
}

// --- bulk tensor copies into shared memory, completing on `bar`.

// Read once: evicted from L2 first, so that activations stay there. The encoding is the one that
// createpolicy.fractional yields for evict_first.
inline constexpr uint64_t kEvictFirst = 0x12F0000000000000;
inline constexpr uint64_t kEvictNormal = 0x1000000000000000;
inline constexpr uint64_t kEvictLast = 0x14F0000000000000;

__device__ __forceinline__ void PrefetchTensorMap(const CUtensorMap* map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(reinterpret_cast<uint64_t>(map)) : "memory");
}

__device__ __forceinline__ void CopyTile2D(void* dst, const CUtensorMap* map, uint64_t* bar, int x,
                                           int y, uint64_t policy) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.L2::cache_"
      "hint"
      " [%0], [%1, {%3, %4}], [%2], %5;" ::"r"(SharedAddress(dst)),
      "l"(reinterpret_cast<uint64_t>(map)), "r"(SharedAddress(bar)), "r"(x), "r"(y), "l"(policy)
      : "memory");
}

__device__ __forceinline__ void CopyTile3D(void* dst, const CUtensorMap* map, uint64_t* bar, int x,
                                           int y, int z, uint64_t policy) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.L2::cache_"
      "hint"
      " [%0], [%1, {%3, %4, %5}], [%2], %6;" ::"r"(SharedAddress(dst)),
      "l"(reinterpret_cast<uint64_t>(map)), "r"(SharedAddress(bar)), "r"(x), "r"(y), "r"(z),
      "l"(policy)
      : "memory");
}

// --- others.

__device__ __forceinline__ uint32_t PackBf16(float low, float high) {
  __nv_bfloat162 v = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<uint32_t*>(&v);
}

// A barrier among `threads` threads of the block (a multiple of 32); id 0 is __syncthreads.
__device__ __forceinline__ void NamedBarrier(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

}  // namespace tangram::ops::cuda::ptx
