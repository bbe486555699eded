#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "sched/scheduler.h"
#include "symbolic_model.h"

namespace tangram {

struct TraceTotals {
  int64_t steps = 0, finished = 0, aborts = 0, failed = 0, copies = 0, chunks = 0;
  int64_t compressed_hits = 0;  // requests that began from a state at a boundary,
  int64_t bare_hits = 0;        // and of these, where nothing followed the boundary
  uint64_t preemptions = 0, hits = 0;
  // Of a sequence whose token was in flight:
  int64_t pending_aborts = 0, pending_preemptions = 0;
  int64_t wasted_rows = 0;  // in a step, but ended before the step's tokens were drawn
  int64_t idle = 0;         // steps without sequences, while one was in flight

  void Add(const TraceTotals& other);
};

// Requests at random on a scheduler and the symbolic model, as the engine's loop drives them with
// one or two steps in flight. A seed gives the same trace on every machine. What goes wrong fails
// the test that runs it.
class RandomTrace {
 public:
  // Depth: steps in flight.
  enum class Depth { kOne, kTwo, kSwitching };
  RandomTrace(int seed, Depth depth);

  void Step();
  // Lets everything finish, and drops the cache: no page is left in use.
  void Drain();
  const TraceTotals& totals() const { return totals_; }

 private:
  // A request, and what a dense run of it alone answers.
  struct Asked {
    Request request;
    std::vector<TokenId> tokens;  // prompt and expected answer
    FinishReason reason = FinishReason::kLength;
    int num_known = 0;    // of tokens: those that the scheduler was told
    int num_pending = 0;  // that steps in flight draw
    int num_cached = -1;  // that the cache gave at first
    int slot = -1;        // while running
    bool failed = false;  // its last draw gave no token
    DenseRun dense;       // follows the scheduler's progress
  };
  // A step that is queued, and whose tokens the scheduler does not know.
  struct StepInFlight {
    std::vector<RequestId> ids;   // of what it draws
    std::vector<TokenId> tokens;  // that follow from the logits,
    std::vector<TokenId> drawn;   // and what became of them
  };

  static constexpr uint64_t kFirstFewShare = 2;  // salts from here on are shared by few requests
  // A salt is its number in digits, 0 none.
  static std::string SaltOf(uint64_t number) {
    return number == 0 ? std::string() : std::to_string(number);
  }
  static uint64_t NumberOf(const std::string& salt) { return salt.empty() ? 0 : std::stoull(salt); }

  int Uniform(int low, int high) { return low + int(random_() % uint64_t(high - low + 1)); }
  bool Chance(int percent) { return Uniform(0, 99) < percent; }
  SchedulerConfig RandomConfig();
  std::vector<RetentionTable> RandomTables();
  std::vector<TokenId> RandomPrompt(int length);
  const RetentionTable& TableOf(const Request& request) const;

  // random_trace.cc: what happens.
  void Ask();
  void FindAnswer(Asked& asked) const;
  void Interfere();
  void RunStep();
  std::optional<StepInFlight> Launch();
  void Draw(StepInFlight& step);
  void Remove(RequestId id);
  // random_trace_checks.cc: what must come of it.
  void CheckEmpty(const SchedulerOutput& output);
  void CheckPart(const ScheduledSequence& seq, std::span<const TokenId> tokens, Asked& asked);
  void CheckHit(const ScheduledSequence& seq, Asked& asked);
  void CheckKv(const ScheduledSequence& seq, Asked& asked);
  void CheckChunks(const SchedulerOutput& output);
  void Resolve(const StepInFlight& step);
  void Tell(const StepResult& result);

  std::mt19937_64 random_;
  Depth depth_;
  int chunk_ = 0;
  CompressionRule rule_;
  SchedulerConfig config_;
  std::vector<RetentionTable> tables_;
  int vocab_size_;
  Scheduler scheduler_;
  SymbolicModel model_;
  std::optional<StepInFlight> in_flight_;
  std::map<RequestId, Asked> asked_;
  std::vector<std::vector<TokenId>> histories_;
  // By salt, of those that few share: requests that ran and did not fail, to which alone later ones
  // may owe their beginning.
  std::map<uint64_t, std::map<RequestId, std::vector<TokenId>>> ran_;
  RequestId next_id_ = 1;
  bool draining_ = false;
  TraceTotals totals_;
};

}  // namespace tangram
