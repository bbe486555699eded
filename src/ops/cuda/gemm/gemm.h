#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

namespace tangram::ops::cuda {

// out = x * weight^T + bias: bf16 operands, f32 sums. All pointers are device memory, 16-byte
// aligned; K is a multiple of 8. The last `f32_columns` columns (scores of a gate) are written in
// f32 to `out_f32` instead of `out`.
struct MatMulArgs {
  const __nv_bfloat16* x;       // [M, K]
  const __nv_bfloat16* weight;  // [N, K]
  const __nv_bfloat16* bias;    // [N], or null
  __nv_bfloat16* out;           // [M, N - f32_columns]
  float* out_f32;               // [M, f32_columns], or null
  int m, n, k;
  int f32_columns = 0;
  int64_t out_stride = 0;  // elements from row to row of `out`, if wider than its columns
};

// Scratch of the streaming matrix product, shared by all calls on one stream:
// `StreamWorkspaceBytes` bytes, zeroed once (every call leaves its counters at zero).
struct StreamWorkspace {
  void* data;
  size_t bytes;
};

// Enough for any weight of up to `max_n` rows on a device of `multiprocessors`.
size_t StreamWorkspaceBytes(int max_n, int multiprocessors);

struct StreamOptions {
  // One tile and one order of K for every M, so that a row of x gives the same bits whatever stands
  // beside it. Otherwise the tile that is fastest for M.
  bool invariant = false;
  // The kernel may start while its predecessor in the stream runs, and read weights ahead: they
  // must not be written by it.
  bool dependent_launch = true;
  int config = -1;  // a tile to force, for benchmarks: an index into StreamConfigs()
};

// The product for few rows of x (M <= 64) on sm_90a, at the rate at which `weight` can be read;
// more rows are taken 64 at a time. One block per multiprocessor of the current device. (K that is
// no multiple of 64: the plain product.)
void RunStreamMatMul(const MatMulArgs& args, const StreamWorkspace& workspace,
                     const StreamOptions& options, cudaStream_t stream);

// The product whose columns are all f32 (f32_columns = n) and few: each 8 of them read all of x
// again. On GPUs from sm_80 on; a row of x gives the same bits in any company.
void RunNarrowMatMul(const MatMulArgs& args, cudaStream_t stream);

// The plain product, for any M on GPUs from sm_80 on; a row of x gives the same bits in any
// company.
void RunSimpleMatMul(const MatMulArgs& args, cudaStream_t stream);

}  // namespace tangram::ops::cuda
