#pragma once

#include <cuda.h>

#include <cstdint>

#include "ops/cuda/ptx_sm80.cuh"

// Hopper's instructions (PTX ISA 9.0): barriers in shared memory, and the copy engine. For code
// compiled for sm_90a alone.

namespace tangram::ops::cuda::ptx {

// --- mbarrier: a count of arrivals and of bytes still to come, with a phase that flips when both
// are complete. Given by pointer, or by address in shared memory.

__device__ __forceinline__ void BarrierInit(uint32_t bar, uint32_t arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(bar), "r"(arrivals) : "memory");
}
__device__ __forceinline__ void BarrierInit(uint64_t* bar, uint32_t arrivals) {
  BarrierInit(SharedAddress(bar), arrivals);
}

// Makes initialised barriers visible to the copy engine.
__device__ __forceinline__ void FenceBarrierInit() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

__device__ __forceinline__ void BarrierArrive(uint64_t* bar) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(SharedAddress(bar)) : "memory");
}

__device__ __forceinline__ void BarrierArriveExpect(uint32_t bar, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(bar), "r"(bytes)
               : "memory");
}
__device__ __forceinline__ void BarrierArriveExpect(uint64_t* bar, uint32_t bytes) {
  BarrierArriveExpect(SharedAddress(bar), bytes);
}

// Waits until the phase of parity `parity` is over. The hardware suspends the thread for a while on
// each try.
__device__ __forceinline__ void BarrierWait(uint32_t bar, uint32_t parity) {
  asm volatile(
      "{\n.reg .pred done;\n"
      "wait_loop:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@!done bra wait_loop;\n}" ::"r"(bar),
      "r"(parity)
      : "memory");
}
__device__ __forceinline__ void BarrierWait(uint64_t* bar, uint32_t parity) {
  BarrierWait(SharedAddress(bar), parity);
}

// Arrives, and returns the phase to wait for.
__device__ __forceinline__ uint64_t BarrierArriveToken(uint64_t* bar) {
  uint64_t token;
  asm volatile("mbarrier.arrive.shared::cta.b64 %0, [%1];"
               : "=l"(token)
               : "r"(SharedAddress(bar))
               : "memory");
  return token;
}
__device__ __forceinline__ void BarrierWaitToken(uint64_t* bar, uint64_t token) {
  asm volatile(
      "{\n.reg .pred done;\n"
      "wait_loop:\n"
      "mbarrier.try_wait.shared::cta.b64 done, [%0], %1;\n"
      "@!done bra wait_loop;\n}" ::"r"(SharedAddress(bar)),
      "l"(token)
      : "memory");
}

// --- bulk tensor copies into shared memory, completing on `bar`.

// L2 policies, in the encoding that createpolicy.fractional yields. What is read once is evicted
// first, so that activations stay.
inline constexpr uint64_t kEvictFirst = 0x12F0000000000000;
inline constexpr uint64_t kEvictNormal = 0x1000000000000000;
inline constexpr uint64_t kEvictLast = 0x14F0000000000000;

__device__ __forceinline__ uint64_t EvictFirstPolicy() {
  uint64_t policy;
  asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
  return policy;
}

__device__ __forceinline__ void PrefetchTensorMap(const CUtensorMap* map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
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

// The box at (0, 0, 0, `index`) of a 4-d tensor map, to an address in shared memory.
__device__ __forceinline__ void CopyBox4D(uint32_t dst, const CUtensorMap* map, uint32_t bar,
                                          int index, uint64_t policy) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint "
      "[%0], [%1, {%2, %2, %2, %3}], [%4], %5;" ::"r"(dst),
      "l"(map), "r"(0), "r"(index), "r"(bar), "l"(policy)
      : "memory");
}

// --- others.

// A barrier among `threads` threads of the block (a multiple of 32); id 0 is __syncthreads.
__device__ __forceinline__ void NamedBarrier(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

}  // namespace tangram::ops::cuda::ptx
