#include <algorithm>

#include "ops/cuda/check.h"
#include "ops/cuda/launch.cuh"
#include "ops/cuda/step/elementwise.h"

namespace tangram::ops::cuda {
namespace {

// Eight bf16 in one 16-byte access.
struct alignas(16) Vector {
  __nv_bfloat162 pair[4];
};

__device__ __forceinline__ float2 Pair(const Vector& v, int i) {
  return __bfloat1622float2(v.pair[i]);
}

template <int kVectors>
__global__ void __launch_bounds__(1024) RmsNormKernel(const RmsNormArgs args) {
  LaunchDependents();
  WaitForPriorKernels();
  const int64_t row = static_cast<int64_t>(blockIdx.x) * args.width;
  const int vectors = args.width / 8;
  Vector value[kVectors];
  float squares = 0;
#pragma unroll
  for (int i = 0; i < kVectors; ++i) {
    const int at = i * blockDim.x + threadIdx.x;
    if (at >= vectors) continue;
    value[i] = reinterpret_cast<const Vector*>(args.residual + row)[at];
    if (args.x != nullptr) {
      const Vector x = reinterpret_cast<const Vector*>(args.x + row)[at];
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const float2 a = Pair(value[i], j), b = Pair(x, j);
        value[i].pair[j] = __floats2bfloat162_rn(a.x + b.x, a.y + b.y);
      }
      reinterpret_cast<Vector*>(args.residual + row)[at] = value[i];
    }
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const float2 v = Pair(value[i], j);
      squares += v.x * v.x + v.y * v.y;
    }
  }
  const float rms = rsqrtf(BlockSum(squares) / args.width + args.epsilon);
#pragma unroll
  for (int i = 0; i < kVectors; ++i) {
    const int at = i * blockDim.x + threadIdx.x;
    if (at >= vectors) continue;
    Vector out;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const float2 w = reinterpret_cast<const float2*>(args.weight)[at * 4 + j];
      const float2 v = Pair(value[i], j);
      out.pair[j] = __floats2bfloat162_rn(v.x * rms * w.x, v.y * rms * w.y);
    }
    reinterpret_cast<Vector*>(args.out + row)[at] = out;
  }
}

__device__ __forceinline__ float Silu(float x) { return x / (1.f + __expf(-x)); }

__global__ void __launch_bounds__(256) SiluMulKernel(const SiluMulArgs args) {
  LaunchDependents();
  WaitForPriorKernels();
  const int vectors = args.width / 8;
  const int at = blockIdx.x * blockDim.x + threadIdx.x;
  if (at >= vectors) return;
  for (int token = blockIdx.y; token < args.tokens; token += gridDim.y) {
    const Vector* row = reinterpret_cast<const Vector*>(args.gate_up) + 2ll * token * vectors;
    const Vector gate = row[at], up = row[vectors + at];
    Vector out;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const float2 g = Pair(gate, j), u = Pair(up, j);
      out.pair[j] = __floats2bfloat162_rn(Silu(g.x) * u.x, Silu(g.y) * u.y);
    }
    reinterpret_cast<Vector*>(args.out)[static_cast<int64_t>(token) * vectors + at] = out;
  }
}

__global__ void __launch_bounds__(256) GatherRowsKernel(const GatherRowsArgs args) {
  LaunchDependents();
  WaitForPriorKernels();
  const int vectors = args.width / 8;
  const int64_t from = static_cast<int64_t>(args.rows[blockIdx.x]) * vectors;
  for (int at = threadIdx.x; at < vectors; at += blockDim.x) {
    reinterpret_cast<Vector*>(args.out)[static_cast<int64_t>(blockIdx.x) * vectors + at] =
        reinterpret_cast<const Vector*>(args.table)[from + at];
  }
}

}  // namespace

void RunRmsNorm(const RmsNormArgs& args, cudaStream_t stream) {
  if (args.tokens == 0) return;
  const int vectors = args.width / 8;
  const auto launch = [&](auto kernel, int per_thread) {
    const int threads = ((vectors + per_thread - 1) / per_thread + 31) / 32 * 32;
    LaunchChained(kernel, dim3(args.tokens), dim3(threads), stream, args);
  };
  if (vectors <= 512) return launch(RmsNormKernel<1>, 1);
  if (vectors <= 1024) return launch(RmsNormKernel<2>, 2);
  launch(RmsNormKernel<4>, 4);
}

void RunSiluMul(const SiluMulArgs& args, cudaStream_t stream) {
  if (args.tokens == 0) return;
  const dim3 grid((args.width / 8 + 255) / 256, std::min(args.tokens, 32768));
  LaunchChained(SiluMulKernel, grid, dim3(256), stream, args);
}

void RunGatherRows(const GatherRowsArgs& args, cudaStream_t stream) {
  if (args.count == 0) return;
  LaunchChained(GatherRowsKernel, dim3(args.count), dim3(256), stream, args);
}

}  // namespace tangram::ops::cuda
