#pragma once

#include "ops/cuda/score_queries.h"

// Between the two halves of ExpectedAttention: the statistics of the queries
// (expected_statistics.cu) and the scores of the keys (score_expected.cu).

namespace tangram::ops::cuda::expected {

inline constexpr float kLog2E = 1.44269504088896f;

// The arrays of its scratch memory.
struct Layout {
  float2* angles;        // [sequences][C][d/2] (cosine, sine) over the scale, to rotate back
  __nv_bfloat16* sigma;  // [sequences][layers][Hq][2][d][d]: high and low part, in base 2
  float* mu;             // [sequences][layers][Hq][d]
  float* logits;         // [rows][g][stride], by key from the first candidate on
  float* log_sums;       // [rows][g]
  int stride;
};

struct KernelParams {
  ExpectedAttentionParams p;
  Layout layout;
};

// Fills `sigma` and `mu`, by way of `angles`. d: 64 or 128.
void RunQueryStatistics(const KernelParams& params, cudaStream_t stream);

}  // namespace tangram::ops::cuda::expected
