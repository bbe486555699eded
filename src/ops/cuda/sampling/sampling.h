#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

namespace tangram::ops::cuda {

// How one row's next token is drawn. The order is vLLM's: penalties, temperature, then the token
// must pass min-p, top-k and top-p; top-p's mass is that of what min-p and top-k left. Tokens that
// tie with the last kept one are kept.
struct SamplingRow {
  float temperature;         // 0: the likeliest token (the lowest id on ties)
  float top_p;               // 1: off
  float min_p;               // 0: off
  int32_t top_k;             // 0: off
  float repetition_penalty;  // of tokens in prompt or output: logit / p if positive, logit * p if
                             // not; 1: off
  float presence_penalty;    // subtracted once for a token of the output
  float frequency_penalty;   // subtracted for each time
  int32_t slot;              // row of `counts`, if there are any, penalties or not
  uint64_t seed;
  uint32_t step;  // tokens drawn from this seed before: the same seed and step give the same noise
};

// Times a token stands in the output of a slot, and kInPrompt if it is in the prompt.
inline constexpr uint32_t kInPrompt = 0x80000000u;

struct SamplingArgs {
  const __nv_bfloat16* logits;  // [S, V]
  const SamplingRow* rows;      // [S]
  uint32_t* counts;  // [slots, V], or null if no row has penalties; the drawn token is counted
  const uint32_t* allowed;  // [S, ceil(V/32)]: bit t of a row set if token t may be drawn; or null
  float* scratch;           // [S, V]
  int32_t* tokens;          // [S]
  float* logprobs;      // [S], or null: log softmax of the logits as they came, at the drawn token
  int32_t* top_tokens;  // [S, num_top]: the likeliest tokens by those logits, best first
  float* top_logprobs;  // [S, num_top]
  int num_top;          // 0: none
  int num_rows, vocabulary;  // S, V; V is a multiple of 4
};

// Draws one token for each row by the Gumbel-max method: the token with the largest
// logit + Gumbel noise, the noise from Philox-4x32-10 (Salmon et al., SC'11) at counter (token / 4,
// step), key seed. A row's token depends on nothing but its logits, its parameters and its counts.
// Token 0 where nothing can be drawn (no token allowed, or only NaN).
void RunSampling(const SamplingArgs& args, cudaStream_t stream);

// Counts the tokens of a slot, once when a request enters: prompt tokens are marked, output tokens
// counted. The slot's row must be zero.
struct CountTokensArgs {
  const int32_t* tokens;  // [count]: the prompt, then the output
  int num_prompt, count;
  uint32_t* counts;  // [V], the slot's row
};
void RunCountTokens(const CountTokensArgs& args, cudaStream_t stream);

}  // namespace tangram::ops::cuda
