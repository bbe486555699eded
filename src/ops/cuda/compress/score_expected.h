#pragma once

#include <cuda_fp16.h>

#include "ops/cuda/compress/score_queries.h"

// Between the two halves of ExpectedAttention: the statistics of the queries
// (expected_statistics.cu) and the scores of the keys (score_expected.cu).

namespace tangram::ops::cuda::expected {

// The arrays of its scratch memory.
struct Layout {
  __half* sigma;    // [sequences][layers][Hq][d][d], in base 2, over `unit`
  float* mu;        // [sequences][layers][Hq][d], the same
  float* unit;      // [sequences][layers][Hq] a power of two
  float* logits;    // [rows][g][stride], by key from the first candidate on
  float* log_sums;  // [rows][g]
  int stride;
};

struct KernelParams {
  ExpectedAttentionParams p;
  Layout layout;
};

// Fills `sigma`, `mu` and `unit`. d: 64 or 128.
void RunQueryStatistics(const KernelParams& params, cudaStream_t stream);

}  // namespace tangram::ops::cuda::expected
