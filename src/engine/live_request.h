#pragma once

#include <chrono>
#include <unordered_map>
#include <vector>

#include "engine/token_event.h"
#include "ops/sampling.h"
#include "sched/request.h"

namespace tangram {

// What the loop remembers of a request between steps.
class LiveRequest {
 public:
  using Clock = std::chrono::steady_clock;

  // `seed` is the request's own, or one that no other has.
  LiveRequest(const Request& request, TokenListener listener, uint64_t seed,
              Clock::time_point submitted);

  // Was put into a step; only the first time counts.
  void Started(Clock::time_point now);
  // Adds how its token at `position` is drawn, to be found under `slot`, from row `logit_row` of
  // the step's logits.
  void AddSamplingRow(int logit_row, int slot, int position, int vocab_size,
                      ops::SamplingInput& input) const;
  // Takes the token that was drawn; the event says of the first one how long it took.
  void Take(TokenEvent& event);
  void Tell(const TokenEvent& event) const { listener_(event); }
  // Its last token is known; its listener may not have been told yet.
  void End() { ended_ = true; }
  bool ended() const { return ended_; }

 private:
  bool has_penalties() const;
  // Tokens that must not come next: stop ids before min_tokens, and the ends of bad words.
  void BanTokens(std::vector<ops::TokenBias>& biases) const;

  SamplingParams sampling_;
  StopParams stop_;
  TokenListener listener_;
  uint64_t seed_;
  std::vector<TokenId> generated_;
  std::unordered_map<TokenId, int> seen_;  // how often generated; with penalties alone
  Clock::time_point submitted_, first_scheduled_{};
  bool started_ = false, ended_ = false;
};

}  // namespace tangram
