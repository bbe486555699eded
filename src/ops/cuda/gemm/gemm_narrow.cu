#include <algorithm>

#include "ops/cuda/check.h"
#include "ops/cuda/gemm/gemm.h"
#include "ops/cuda/launch.cuh"
#include "ops/cuda/ptx_sm80.cuh"

// The product with few columns, a gate's scores: 16 tokens by 8 columns a block, whose warps share
// K. There is next to no arithmetic, so operands go from memory to registers without a detour, many
// loads at a time: what costs is their latency, and reading x.

namespace tangram::ops::cuda {
namespace {

constexpr int kTokens = 16, kColumns = 8, kWarps = 16;
constexpr int kDepth = 32;    // K elements that a warp takes at a time
constexpr int kInFlight = 4;  // such steps on their way at a time

__device__ uint4 LoadEight(const __nv_bfloat16* row, int k, int depth) {
  return k < depth ? __ldg(reinterpret_cast<const uint4*>(row + k)) : uint4{0, 0, 0, 0};
}

// A lane holds eight adjacent elements of its rows of x and weight. Which of them the tensor cores
// multiply in which place is the same for both, so it need not be their place in K.
__device__ void Multiply(float (&sums)[4], const uint4& low, const uint4& high, const uint4& w) {
  const uint32_t first[4] = {low.x, high.x, low.y, high.y};
  const uint32_t second[4] = {low.z, high.z, low.w, high.w};
  ptx::MmaBf16(sums, first, w.x, w.y);
  ptx::MmaBf16(sums, second, w.z, w.w);
}

__global__ void __launch_bounds__(kWarps * 32) NarrowKernel(const MatMulArgs a) {
  LaunchDependents();
  WaitForPriorKernels();
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int token = blockIdx.x * kTokens, column = blockIdx.y * kColumns;
  // Rows that there are not are the last one again; nothing is written for them.
  const auto x_row = [&](int row) { return a.x + int64_t{min(token + row, a.m - 1)} * a.k; };
  const __nv_bfloat16 *low = x_row(lane / 4), *high = x_row(lane / 4 + 8);
  const __nv_bfloat16* weight = a.weight + int64_t{min(column + lane / 4, a.n - 1)} * a.k;
  float sums[4] = {};
  for (int k = warp * kDepth; k < a.k; k += kWarps * kDepth * kInFlight) {
    uint4 l[kInFlight], h[kInFlight], w[kInFlight];
#pragma unroll
    for (int i = 0; i < kInFlight; ++i) {
      const int at = k + i * kWarps * kDepth + lane % 4 * 8;
      l[i] = LoadEight(low, at, a.k);
      h[i] = LoadEight(high, at, a.k);
      w[i] = LoadEight(weight, at, a.k);
    }
#pragma unroll
    for (int i = 0; i < kInFlight; ++i) Multiply(sums, l[i], h[i], w[i]);
  }
  __shared__ float4 of_warps[kWarps][32];
  of_warps[warp][lane] = make_float4(sums[0], sums[1], sums[2], sums[3]);
  __syncthreads();
  // Of a lane's four sums, two adjacent columns of its two tokens.
  const int from = threadIdx.x / 4, i = threadIdx.x % 4;
  if (from >= 32) return;
  const int row = token + from / 4 + i / 2 * 8, n = column + from % 4 * 2 + i % 2;
  if (row >= a.m || n >= a.n) return;
  float sum = a.bias != nullptr ? __bfloat162float(a.bias[n]) : 0.f;
  for (int w = 0; w < kWarps; ++w) sum += reinterpret_cast<const float*>(&of_warps[w][from])[i];
  a.out_f32[static_cast<int64_t>(row) * a.n + n] = sum;
}

}  // namespace

void RunNarrowMatMul(const MatMulArgs& args, cudaStream_t stream) {
  const dim3 grid((args.m + kTokens - 1) / kTokens, (args.n + kColumns - 1) / kColumns);
  LaunchChained(NarrowKernel, grid, dim3(kWarps * 32), stream, args);
}

}  // namespace tangram::ops::cuda
