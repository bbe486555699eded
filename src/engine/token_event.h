#pragma once

#include <functional>
#include <vector>

#include "ops/sampling.h"
#include "sched/request.h"

namespace tangram {

using ops::TokenLogprob;

// One token of a request, or its end, told to the request's listener. A request gets one event for
// each token and exactly one with `finished`; kAbort and kError come without a token.
struct TokenEvent {
  TokenId token = -1;
  TokenLogprob logprob{};                  // when asked for
  std::vector<TokenLogprob> top_logprobs;  // best first
  bool finished = false;
  FinishReason reason = FinishReason::kStop;
  TokenId stop_token = -1;     // the stop id or EOS that ended it
  int num_cached_tokens = 0;   // of the prompt, from the prefix cache
  int logical_tokens = 0;      // processed so far
  double resident_tokens = 0;  // of those, kept: mean over head groups
  double queue_seconds = 0;    // submitted to first scheduled; set with the first token
  double prefill_seconds = 0;  // first scheduled to first token; set with the first token
};

// Called on the engine's thread: must not block.
using TokenListener = std::function<void(const TokenEvent&)>;

}  // namespace tangram
