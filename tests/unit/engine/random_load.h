#pragma once

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <random>
#include <vector>

#include "engine/engine.h"

namespace tangram {

// All that a request was told: tokens and log probabilities, to the bit.
struct Outcome {
  std::vector<TokenId> tokens;
  std::vector<std::pair<TokenId, float>> logprobs;  // of each token, then its alternatives
  FinishReason reason = FinishReason::kStop;
  TokenId stop_token = -1;
  bool operator==(const Outcome&) const = default;
};

// A request, and when its client gives up.
struct Ask {
  Request request;
  std::vector<TokenId> text;  // its listener aborts behind these tokens, as at a stop string
  int patience = -1;  // aborted from elsewhere so many microseconds after it came; -1: never
};

// A client that waits for the end of its request.
class Client {
 public:
  // A patient one waits for the end, whatever `ask` says of giving up.
  Client(Engine& engine, const Ask& ask, bool patient)
      : engine_(engine), ask_(ask), patient_(patient) {}
  void Submit();
  void Abort();
  const Outcome& Wait();
  bool finished() const { return finished_; }
  bool has_aborted() const { return has_aborted_; }

 private:
  void Listen(const TokenEvent& event);

  Engine& engine_;
  const Ask& ask_;
  const bool patient_;
  std::atomic<RequestId> id_ = 0;
  std::atomic<bool> finished_ = false, has_aborted_ = false;
  std::mutex mutex_;
  std::condition_variable changed_;
  Outcome outcome_;
};

// Requests of all kinds, at random: prompts that begin like others, every sampling parameter, stop
// ids, bad words, and some that can draw nothing. What ends them comes from `answers`, those to
// requests of the same seed without such ends; empty at first.
std::vector<Ask> RandomAsks(const EngineInfo& info, uint32_t seed, int count,
                            const std::vector<Outcome>& answers);

// All at once, none aborted.
std::vector<Outcome> RunPatiently(Engine& engine, const std::vector<Ask>& asks);
// As they come, some aborted, the cache cleared now and then. Each outcome is the one of
// `expected`, or its beginning if its client gave up; tells how many did.
int RunImpatiently(Engine& engine, const std::vector<Ask>& asks,
                   const std::vector<Outcome>& expected);

}  // namespace tangram
