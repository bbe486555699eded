#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include <cstdint>

// The bandwidth-bound operations between matrix products. All pointers are device memory, rows
// contiguous and 16-byte aligned (D and F are multiples of 8); sums are f32 and every output is
// rounded once. Each row is computed by one block in a fixed order: the same bits in any batch.

namespace tangram::ops::cuda {

// residual += x (if x is given; rounded to bf16); out = residual / rms(residual) * weight.
struct RmsNormArgs {
  const __nv_bfloat16* x;   // [T, D] or null
  __nv_bfloat16* residual;  // [T, D], updated in place when x is given
  const float* weight;      // [D]
  __nv_bfloat16* out;       // [T, D]
  int tokens, width;        // D <= 32768
  float epsilon;
};
void RunRmsNorm(const RmsNormArgs& args, cudaStream_t stream);

// out = silu(gate) * up.
struct SiluMulArgs {
  const __nv_bfloat16* gate_up;  // [T, 2F]: gate, then up
  __nv_bfloat16* out;            // [T, F]
  int tokens, width;             // F
};
void RunSiluMul(const SiluMulArgs& args, cudaStream_t stream);

// out[i] = table[rows[i]]: the embedding of tokens, or rows picked from a step's result.
struct GatherRowsArgs {
  const int32_t* rows;         // [T]
  const __nv_bfloat16* table;  // [V, D]
  __nv_bfloat16* out;          // [T, D]
  int count, width;
};
void RunGatherRows(const GatherRowsArgs& args, cudaStream_t stream);

}  // namespace tangram::ops::cuda
