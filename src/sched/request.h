#pragma once

#include <cmath>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/token_id.h"

namespace tangram {

using RequestId = uint64_t;

// How the next token is chosen. Defaults change nothing; ranges are checked by whoever parses them.
struct SamplingParams {
  float temperature = 1.0f;         // below 1e-5: greedy
  int top_k = 0;                    // 0: all
  float top_p = 1.0f;               // (0, 1]
  float min_p = 0.0f;               // [0, 1]
  float presence_penalty = 0.0f;    // [-2, 2], once for each token that was generated
  float frequency_penalty = 0.0f;   // [-2, 2], for each time that it was generated
  float repetition_penalty = 1.0f;  // > 0, over prompt and generated tokens
  std::optional<uint64_t> seed;     // the same seed and prompt give the same tokens
  std::vector<std::pair<TokenId, float>> logit_bias;
  std::vector<TokenId> allowed_token_ids;       // empty: all
  std::vector<std::vector<TokenId>> bad_words;  // none empty: are not generated
  int num_logprobs =
      -1;  // -1: none; k: the sampled token's and the k best; kAllLogprobs: the whole vocabulary
  static constexpr int kAllLogprobs = 1 << 30;

  bool greedy() const { return temperature < 1e-5f; }
};

// When to stop, in terms of token ids (stop strings are the server's: it aborts).
struct StopParams {
  int max_tokens = 16;
  int min_tokens = 0;  // until then no stop id ends the request, and none is sampled
  bool ignore_eos = false;
  std::vector<TokenId> stop_token_ids;  // the model's EOS ids are the engine's to add
};

// What a user asks for, once it is tokens.
struct Request {
  RequestId id = 0;
  std::vector<TokenId> prompt;  // not empty; prompt + max_tokens fits max_model_len
  SamplingParams sampling;
  StopParams stop;
  int priority = 0;                // lower first, where the policy is priority
  std::string cache_salt;          // prefixes are shared only among equal salts
  float compression_ratio = 1.0f;  // the share of the KV cache that is kept, meant to 0.01

  int compression_percent() const { return static_cast<int>(std::lround(compression_ratio * 100)); }
};

enum class FinishReason { kStop, kLength, kAbort, kError };

}  // namespace tangram
