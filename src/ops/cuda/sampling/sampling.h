#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "ops/sampling.h"

namespace tangram::ops::cuda {

// All in device memory. S rows draw a token, V is the vocabulary.
struct SamplingArgs {
  const float* logits;      // [rows of the step, stride], 16-byte aligned
  int64_t stride;           // V or more, a multiple of 4: what lies behind column V is never drawn
  const SamplingRow* rows;  // [S]
  const SeenToken* seen;    // SamplingInput's arrays; null if no row has a part of them
  const TokenBias* biases;
  const uint32_t* allowed;
  float* scratch;            // [S, stride], for rows with adjustments
  int32_t* tokens;           // [S]; -1: nothing can be drawn, no finite score is left
  int32_t* drawn;            // [slots]: the token again, at its row's slot, for the embedding of a
                             // later step; hence 0 where nothing can be drawn
  float* logprobs;           // [S], where the row wants it; null if none does
  int32_t* ranks;            // [S]: TokenLogprob::rank
  int32_t* top_tokens;       // [S, num_top]: what the row wants of it, best first; -1 where fewer
  float* top_logprobs;       // tokens have a finite logit. Null if num_top is 0
  int num_top;               // kMostTop at most: for rows that want more the host reads the logits
  int num_rows, vocabulary;  // S, V
};
inline constexpr int kMostTop = 64;

// Draws a token for each row, by the rules of SamplingRow. A token, and its log probability, are
// the same bits whatever the other rows are and however many. Scores nearer to each other than
// 2^-27, or (nearly) 32 and more below the best, count as ties.
void RunSampling(const SamplingArgs& args, cudaStream_t stream);

}  // namespace tangram::ops::cuda
