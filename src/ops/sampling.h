#pragma once

#include <cstdint>
#include <limits>
#include <span>
#include <vector>

namespace tangram::ops {

// How one row's next token is drawn. Order, as in vLLM: adjustments (allowed tokens, penalties,
// biases), temperature, then a token must pass min-p, top-k and top-p; top-p's mass is that of what
// min-p and top-k left. Tokens that tie with the last kept one are kept. Of what is left the token
// with the largest score + Gumbel noise is drawn (the Gumbel-max method), the noise from
// Philox-4x32-10 (Salmon et al., SC'11) at counter (token / 4, draw), key seed: a row's token
// depends on nothing but its logits and what stands here.
struct SamplingRow {
  int32_t logit_row = 0;         // of the step's logits
  int32_t slot = 0;              // where later steps find the token (StepInput::kLastDrawn)
  float temperature = 0;         // 0: the likeliest token, the lowest id on ties
  float top_p = 1;               // 1: off
  float min_p = 0;               // 0: off
  int32_t top_k = 0;             // 0: off
  float repetition_penalty = 1;  // of seen tokens: logit / p if positive, logit * p if not; 1: off
  float presence_penalty = 0;    // subtracted once from a token of the output
  float frequency_penalty = 0;   // subtracted for each time it stands there
  uint64_t seed = 0;
  uint32_t draw = 0;  // the same seed and draw give the same noise
  // -1: no log probability is wanted; k: that of the token and of the k likeliest (kAll: of all).
  // They are the log softmax of the logits as they came.
  int32_t num_logprobs = -1;
  static constexpr int32_t kAll = std::numeric_limits<int32_t>::max();
  // Its parts of SamplingInput's arrays.
  int32_t first_seen = 0, num_seen = 0;
  int32_t first_bias = 0, num_biases = 0;
  int32_t first_allowed = -1;  // its ceil(V/32) words; -1: all tokens are allowed

  bool adjusted() const { return num_seen > 0 || num_biases > 0 || first_allowed >= 0; }
};

// A token of the prompt or the output, for penalties. A row names a token once.
struct SeenToken {
  int32_t token;
  int32_t times;  // in the output; 0: it is in the prompt alone
};

// Added to a token's logit after its penalties; minus infinity bans it. A row may name a token
// several times: what is added is added up.
struct TokenBias {
  int32_t token;
  float bias;
};

// The rows of a step that draw a token. Host memory, reused from step to step.
struct SamplingInput {
  std::vector<SamplingRow> rows;
  std::vector<SeenToken> seen;
  std::vector<TokenBias> biases;
  std::vector<uint32_t> allowed;  // bit t % 32 of word t / 32: token t may be drawn

  void Clear() {
    rows.clear();
    seen.clear();
    biases.clear();
    allowed.clear();
  }
};

struct TokenLogprob {
  int32_t token;
  float logprob;
  int32_t rank;  // 1: the likeliest; one more than the tokens with a larger logit
};

// What was drawn, row by row.
struct SamplingOutput {
  std::vector<int32_t> tokens;                 // -1: nothing can be drawn, no finite score is left
  std::vector<TokenLogprob> logprobs;          // of the tokens, where wanted
  std::vector<std::vector<TokenLogprob>> top;  // num_logprobs of each row, best first
};

}  // namespace tangram::ops
