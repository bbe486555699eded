#pragma once

#include <cstdint>
#include <span>
#include <unordered_map>
#include <vector>

#include "engine/token_event.h"
#include "sched/request.h"

namespace tangram {

// What penalties need to know of a sequence: which tokens stood in its prompt, and how often each
// was generated. Empty for requests without penalties.
class TokenCounts {
 public:
  struct Count {
    bool in_prompt = false;
    int generated = 0;
  };

  // Counts the prompt, if `params` has any penalty; else stays inactive and costs nothing.
  TokenCounts(const SamplingParams& params, std::span<const TokenId> prompt);
  void Add(TokenId generated);
  const std::unordered_map<TokenId, Count>& counts() const { return counts_; }

 private:
  bool active_;
  std::unordered_map<TokenId, Count> counts_;
};

struct SampleInput {
  std::span<float> logits;  // [V], overwritten
  const SamplingParams& params;
  const TokenCounts& counts;
  std::span<const TokenId> banned;  // must not be chosen
  uint64_t seed;                    // the request's own
  int position;                     // of the new token
};

struct SampledToken {
  TokenId token = -1;  // -1: no finite logit is left to choose from
  TokenLogprob logprob{};
  std::vector<TokenLogprob> top_logprobs;
};

// Chooses tokens from logits. The choice is a function of its input alone (the random number is a
// hash of seed and position), so neither batching nor preemption can change it. Logprobs are of the
// model's own logits, before penalties and temperature. Order of the steps, as in vLLM: bias and
// allowed ids, penalties, temperature, min-p, top-k, top-p.
class Sampler {
 public:
  SampledToken Sample(const SampleInput& input);

 private:
  struct Candidate {
    float weight;  // exp((logit - maximum) / temperature), not normalised
    TokenId token;
  };
  TokenId Draw(const SampleInput& input);

  std::vector<Candidate> candidates_;  // kept for its capacity
};

// A number in [0, 1) from a counter-based generator (SplitMix64's finaliser over seed and
// position).
double UniformAt(uint64_t seed, uint64_t position);

}  // namespace tangram
