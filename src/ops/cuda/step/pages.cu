#include "ops/cuda/launch.cuh"
#include "ops/cuda/row_length.cuh"
#include "ops/cuda/step/pages.h"

namespace tangram::ops::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kInFlight = 4;  // vectors of 16 bytes that a thread copies

// Block (page, part of it).
__global__ void __launch_bounds__(kThreads)
    CopyPagesKernel(const __grid_constant__ CudaCopyPagesParams p) {
  WaitForPriorKernels();
  LaunchDependents();
  const int vectors = static_cast<int>(p.page_bytes / sizeof(uint4));
  const uint4* from = static_cast<const uint4*>(p.pool) + int64_t{p.from[blockIdx.x]} * vectors;
  uint4* to = static_cast<uint4*>(p.pool) + int64_t{p.to[blockIdx.x]} * vectors;
  const int first = blockIdx.y * kThreads * kInFlight + threadIdx.x;
  uint4 data[kInFlight];
#pragma unroll
  for (int i = 0; i < kInFlight; ++i) {
    if (first + i * kThreads < vectors) data[i] = from[first + i * kThreads];
  }
#pragma unroll
  for (int i = 0; i < kInFlight; ++i) {
    if (first + i * kThreads < vectors) to[first + i * kThreads] = data[i];
  }
}

// A thread a score.
__global__ void __launch_bounds__(kThreads)
    AppendChunkScoresKernel(const __grid_constant__ AppendChunkScoresParams p) {
  WaitForPriorKernels();
  LaunchDependents();
  const int i = blockIdx.x * kThreads + threadIdx.x, token = i / p.num_kv_heads;
  if (token >= p.tables.chunk) return;
  const int place = p.layer * p.num_kv_heads + i % p.num_kv_heads;
  const int row = p.kv.head_row[place];
  const int position = p.boundary - p.tables.chunk + token;
  const int index = RowLength(p.tables, p.table, row, position + 1) - 1;
  const int64_t page =
      p.kv.page_table[(int64_t{p.slot} * p.kv.num_rows + row) * p.kv.max_pages_per_row +
                      index / kPageTokens];
  p.scores[(page * p.kv.group_size + p.kv.head_column[place]) * kPageTokens + index % kPageTokens] =
      p.new_scores[i];
}

}  // namespace

void RunCopyPages(const CudaCopyPagesParams& params, cudaStream_t stream) {
  if (params.count == 0) return;
  constexpr int64_t kBlockBytes = sizeof(uint4) * kThreads * kInFlight;
  const auto parts = static_cast<unsigned>((params.page_bytes + kBlockBytes - 1) / kBlockBytes);
  LaunchChained(CopyPagesKernel, dim3(params.count, parts), kThreads, stream, params);
}

void RunAppendChunkScores(const AppendChunkScoresParams& params, cudaStream_t stream) {
  const int scores = params.tables.chunk * params.num_kv_heads;
  LaunchChained(AppendChunkScoresKernel, (scores + kThreads - 1) / kThreads, kThreads, stream,
                params);
}

}  // namespace tangram::ops::cuda
