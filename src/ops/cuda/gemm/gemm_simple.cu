#include "ops/cuda/check.h"
#include "ops/cuda/gemm/gemm.h"
#include "ops/cuda/launch.cuh"
#include "ops/cuda/ptx_sm80.cuh"

// The matrix product in its plain form, for what the others do not take: GPUs other than Hopper's
// without cuBLASLt or in batch-invariant mode, K that is no multiple of 64, many f32 columns with a
// bias that cuBLASLt has no plan for. A block computes 64 x 64 outputs from tiles of 32 K elements
// in shared memory, four warps of 16 tokens each.

namespace tangram::ops::cuda {
namespace {

constexpr int kTile = 64, kDepth = 32, kThreads = 128;
// Rows padded by 16 bytes, so that eight rows lie in different banks.
using Tile = __nv_bfloat16[kTile][kDepth + 8];

// Rows [row, row + 64), elements [k, k + 32) of a matrix [rows, depth]; zeros outside.
__device__ void LoadTile(const __nv_bfloat16* matrix, int rows, int depth, int row, int k,
                         Tile& to) {
#pragma unroll
  for (int i = threadIdx.x; i < kTile * kDepth / 8; i += kThreads) {
    const int r = i / (kDepth / 8), at = i % (kDepth / 8) * 8;
    uint4 value = {0, 0, 0, 0};
    if (row + r < rows && k + at < depth) {
      value =
          *reinterpret_cast<const uint4*>(matrix + static_cast<int64_t>(row + r) * depth + k + at);
    }
    *reinterpret_cast<uint4*>(&to[r][at]) = value;
  }
}

__global__ void __launch_bounds__(kThreads) SimpleKernel(const MatMulArgs a) {
  LaunchDependents();
  WaitForPriorKernels();
  __shared__ Tile x, weight;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int row = blockIdx.y * kTile, column = blockIdx.x * kTile;
  float sums[kTile / 8][4] = {};
  for (int k = 0; k < a.k; k += kDepth) {
    __syncthreads();
    LoadTile(a.x, a.m, a.k, row, k, x);
    LoadTile(a.weight, a.n, a.k, column, k, weight);
    __syncthreads();
#pragma unroll
    for (int step = 0; step < kDepth / 16; ++step) {
      uint32_t tokens[4];
      ptx::LoadMatrices(tokens,
                        ptx::SharedAddress(&x[warp * 16 + lane % 16][step * 16 + lane / 16 * 8]));
#pragma unroll
      for (int n = 0; n < kTile / 16; ++n) {
        uint32_t w[4];
        ptx::LoadMatrices(
            w, ptx::SharedAddress(
                   &weight[n * 16 + lane / 16 * 8 + lane % 8][step * 16 + lane / 8 % 2 * 8]));
        ptx::MmaBf16(sums[2 * n], tokens, w[0], w[1]);
        ptx::MmaBf16(sums[2 * n + 1], tokens, w[2], w[3]);
      }
    }
  }
  const int columns = a.n - a.f32_columns;
  const int64_t stride = a.out_stride > 0 ? a.out_stride : columns;
#pragma unroll
  for (int i = 0; i < kTile / 2; ++i) {
    const int token = row + warp * 16 + lane / 4 + i / 2 % 2 * 8;
    const int n = column + i / 4 * 8 + lane % 4 * 2 + i % 2;
    if (token >= a.m || n >= a.n) continue;
    const float value =
        sums[i / 4][i % 4] + (a.bias != nullptr ? __bfloat162float(a.bias[n]) : 0.f);
    if (n < columns) {
      a.out[token * stride + n] = __float2bfloat16_rn(value);
    } else {
      a.out_f32[static_cast<int64_t>(token) * a.f32_columns + n - columns] = value;
    }
  }
}

}  // namespace

void RunSimpleMatMul(const MatMulArgs& args, cudaStream_t stream) {
  const dim3 grid((args.n + kTile - 1) / kTile, (args.m + kTile - 1) / kTile);
  LaunchChained(SimpleKernel, grid, dim3(kThreads), stream, args);
}

}  // namespace tangram::ops::cuda
