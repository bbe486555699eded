// Random traces on the symbolic model: design section 8, items 1 to 4. Each case prints its seed as
// its name, and a seed gives the same trace on every machine.
#include <gtest/gtest.h>

#include <algorithm>
#include <climits>
#include <cstdlib>
#include <iostream>
#include <map>
#include <random>

#include "sched/scheduler.h"
#include "symbolic_model.h"

namespace tangram {
namespace {

constexpr int kSeeds = 50;
constexpr int kStepsPerSeed = 20000;  // together 10^6

// Fewer under sanitizers, which scripts/test asks for.
int StepsPerSeed() {
  const char* fewer = std::getenv("TANGRAM_PROPERTY_STEPS");
  return fewer != nullptr ? std::atoi(fewer) : kStepsPerSeed;
}

// A request, and what a dense run of it alone answers.
struct Asked {
  Request request;
  std::vector<TokenId> tokens;  // prompt and expected answer
  FinishReason reason = FinishReason::kLength;
  size_t num_known = 0;  // of tokens, so far
  DenseRun dense;        // follows the scheduler's progress
};

struct Totals {
  int64_t steps = 0, finished = 0, aborts = 0, copies = 0;
  int64_t compressed_hits = 0;  // requests that began from a state at a boundary,
  int64_t bare_hits = 0;        // and of these, where nothing followed the boundary
  uint64_t preemptions = 0, hits = 0;

  void Add(const Totals& other) {
    steps += other.steps;
    finished += other.finished;
    aborts += other.aborts;
    copies += other.copies;
    compressed_hits += other.compressed_hits;
    bare_hits += other.bare_hits;
    preemptions += other.preemptions;
    hits += other.hits;
  }
};

class Trace {
 public:
  explicit Trace(int seed);
  void Step();
  // Lets everything finish, and drops the cache: no page is left in use.
  void Drain();
  Totals totals() const { return totals_; }

 private:
  int Uniform(int low, int high) { return low + int(random_() % uint64_t(high - low + 1)); }
  bool Chance(int percent) { return Uniform(0, 99) < percent; }
  SchedulerConfig RandomConfig();
  std::vector<RetentionTable> RandomTables();
  std::vector<TokenId> RandomPrompt(int length);
  const RetentionTable& TableOf(const Request& request) const {
    const auto it = std::ranges::find(percents_, request.compression_percent());
    return scheduler_.table(int(it - percents_.begin()));
  }
  void Ask();
  void AbortOne();
  void RunStep();
  void Check(const ScheduledSequence& seq, Asked& asked);
  void Tell(const StepResult& result);

  std::mt19937_64 random_;
  int chunk_ = 0;
  CompressionRule rule_;
  SchedulerConfig config_;
  std::vector<int> percents_;
  int vocab_size_;
  Scheduler scheduler_;
  SymbolicModel model_;
  std::map<RequestId, Asked> asked_;
  std::vector<std::vector<TokenId>> histories_;
  RequestId next_id_ = 1;
  Totals totals_;
};

Trace::Trace(int seed)
    : random_(seed),
      config_(RandomConfig()),
      vocab_size_(Uniform(2, 4)),
      scheduler_(config_, RandomTables()),
      model_({config_.max_num_seqs, config_.num_rows,
              (config_.max_model_len + config_.page_size - 1) / config_.page_size,
              config_.page_size, config_.num_pages, vocab_size_},
             rule_) {}

SchedulerConfig Trace::RandomConfig() {
  SchedulerConfig config;
  config.page_size = 1 << Uniform(0, 3);
  chunk_ = config.page_size * Uniform(1, 3);
  rule_.window = Uniform(1, std::max(1, chunk_ / 2));
  rule_.sinks = Uniform(0, std::min(2, chunk_ - rule_.window));
  config.num_rows = Uniform(1, 3);
  config.max_num_seqs = Uniform(1, 8);
  config.max_num_batched_tokens = Uniform(1, 40);
  config.max_model_len = Uniform(16, 120);
  const int one = (config.max_model_len + config.page_size - 1) / config.page_size;
  config.num_pages = config.num_rows * (one + Uniform(0, one));
  config.enable_prefix_caching = Chance(90);
  config.priority_policy = Chance(30);
  config.window = rule_.window;
  config.lookback = Chance(70) ? 0 : Chance(50) ? rule_.window : chunk_;
  config.stop_at_boundaries = Chance(20);
  return config;
}

// Ratio 1, and up to two others with any increments.
std::vector<RetentionTable> Trace::RandomTables() {
  std::vector<RetentionTable> tables;
  tables.push_back(RetentionTable::Full(config_.num_rows, chunk_));
  const int floor = rule_.sinks + rule_.window, rows = config_.num_rows, page = config_.page_size;
  for (int percent = 30; percent <= 60; percent += 30) {
    if (Chance(20)) continue;
    std::vector<int32_t> retained;
    for (int i = 0; i < (config_.max_model_len / chunk_ + 1) * rows; ++i) {
      const int before = i < rows ? 0 : retained[i - rows];
      const int least = (std::max(before, floor) + page - 1) / page * page;
      const int most = (before + chunk_) / page * page;
      retained.push_back(least + Uniform(0, (most - least) / page * percent / 60) * page);
    }
    tables.emplace_back(rows, chunk_, percent, std::move(retained));
  }
  percents_.clear();
  for (const RetentionTable& table : tables) percents_.push_back(table.percent());
  return tables;
}

// New tokens after the beginning of what was said before: prefixes in common of every length.
std::vector<TokenId> Trace::RandomPrompt(int length) {
  std::vector<TokenId> prompt;
  if (!histories_.empty() && Chance(75)) {
    prompt = histories_[Uniform(0, int(histories_.size()) - 1)];
    if (Chance(50)) prompt.resize(Uniform(0, int(prompt.size())));
    prompt.resize(std::min(int(prompt.size()), Chance(50) ? length - 1 : length));
  }
  const int target = prompt.empty() ? length : std::min(length, int(prompt.size()) + Uniform(0, 6));
  while (int(prompt.size()) < std::max(1, target)) prompt.push_back(Uniform(0, vocab_size_ - 1));
  return prompt;
}

void Trace::Ask() {
  Request request{.id = next_id_++};
  request.stop.max_tokens = Uniform(1, std::min(40, config_.max_model_len - 1));
  request.stop.min_tokens = Uniform(0, 3);
  if (Chance(30)) request.stop.stop_token_ids = {Uniform(0, vocab_size_ - 1)};
  request.prompt = RandomPrompt(Uniform(1, config_.max_model_len - request.stop.max_tokens));
  request.priority = std::vector{INT_MIN, 0, 1, INT_MAX}[Uniform(0, 3)];
  request.cache_salt = Chance(80) ? "" : "other";
  request.compression_ratio = float(percents_[Uniform(Chance(25) ? 0 : int(percents_.size()) / 2,
                                                      int(percents_.size()) - 1)]) /
                              100;
  if (!scheduler_.Fits(request)) return;  // compressed late, a row may need more than in the end
  Asked asked{.request = request,
              .tokens = request.prompt,
              .num_known = request.prompt.size(),
              .dense = DenseRun(TableOf(request), rule_, request.cache_salt)};
  DenseRun alone = asked.dense;
  for (const TokenId token : request.prompt) alone.Process(token);
  for (int i = 1; i <= request.stop.max_tokens; ++i) {
    const TokenId token = alone.Next(vocab_size_);
    asked.tokens.push_back(token);
    if (i >= request.stop.min_tokens && request.stop.stop_token_ids == std::vector{token}) {
      asked.reason = FinishReason::kStop;
      break;
    }
    alone.Process(token);
  }
  scheduler_.Add(request);
  asked_.emplace(request.id, std::move(asked));
}

void Trace::AbortOne() {
  if (asked_.empty()) return;
  const auto it = std::next(asked_.begin(), Uniform(0, int(asked_.size()) - 1));
  EXPECT_TRUE(scheduler_.Abort(it->first));
  asked_.erase(it);
  ++totals_.aborts;
}

void Trace::Step() {
  while (asked_.size() < 12 && Chance(asked_.size() < 2 ? 50 : 15)) Ask();
  if (Chance(2)) AbortOne();
  if (Uniform(0, 999) == 0) scheduler_.ClearPrefixCache();
  RunStep();
}

void Trace::RunStep() {
  const SchedulerOutput output = scheduler_.Schedule();
  ++totals_.steps;
  totals_.copies += output.page_copies.size();
  ASSERT_EQ(output.empty(), asked_.empty());
  if (output.empty()) return;
  EXPECT_LE(output.num_tokens, config_.max_num_batched_tokens);
  model_.Begin(output, scheduler_.page_table());
  std::vector<TokenId> sampled;
  for (const ScheduledSequence& seq : output.sequences) {
    const std::span<const TokenId> tokens = scheduler_.Tokens(seq.id);
    Asked& asked = asked_.at(seq.id);
    ASSERT_EQ(tokens.size(), asked.num_known);
    const TokenId next =
        model_.Run(seq, scheduler_.table(seq.table), asked.request.cache_salt, tokens);
    if (seq.samples) sampled.push_back(next);
    Check(seq, asked);
  }
  if (Chance(2)) AbortOne();
  for (const StepResult& result : scheduler_.Complete(sampled)) Tell(result);
  scheduler_.CheckInvariants();
}

void Trace::Check(const ScheduledSequence& seq, Asked& asked) {
  if (asked.dense.num_computed() == 0 && seq.boundary > 0) {
    ++totals_.compressed_hits;
    totals_.bare_hits += seq.boundary == seq.num_computed;
  }
  if (asked.dense.num_computed() > seq.num_computed) {  // preempted, and its state was cut
    asked.dense = DenseRun(scheduler_.table(seq.table), rule_, asked.request.cache_salt);
  }
  while (asked.dense.num_computed() < seq.num_computed + seq.num_tokens) {
    asked.dense.Process(asked.tokens[asked.dense.num_computed()]);
  }
  for (int row = 0; row < config_.num_rows; ++row) {
    ASSERT_EQ(int(asked.dense.row(row).size()),
              scheduler_.table(seq.table).Length(row, asked.dense.num_computed()));
  }
  ASSERT_EQ(model_.Difference(seq.slot, asked.dense), "") << "request " << seq.id;
  ASSERT_EQ(seq.samples, asked.dense.num_computed() == int(asked.num_known));
}

void Trace::Tell(const StepResult& result) {
  Asked& asked = asked_.at(result.id);
  ASSERT_EQ(result.token, asked.tokens.at(asked.num_known)) << "request " << result.id;
  ++asked.num_known;
  ASSERT_EQ(result.finished, asked.num_known == asked.tokens.size());
  if (!result.finished) return;
  EXPECT_EQ(result.reason, asked.reason);
  ++totals_.finished;
  if (histories_.size() < 12) {
    histories_.push_back(std::move(asked.tokens));
  } else {
    histories_[Uniform(0, 11)] = std::move(asked.tokens);
  }
  asked_.erase(result.id);
}

void Trace::Drain() {
  for (int i = 0; i < 10000 && scheduler_.HasWork(); ++i) RunStep();
  EXPECT_TRUE(asked_.empty());
  scheduler_.ClearPrefixCache();
  scheduler_.CheckInvariants();
  const SchedulerStats stats = scheduler_.Stats();
  EXPECT_EQ(stats.pages_held + stats.pages_cached, 0);
  totals_.preemptions = stats.num_preemptions;
  totals_.hits = stats.prefix_cache_hits;
}

class SchedulerProperty : public testing::TestWithParam<int> {
 protected:
  static Totals sum_;
  static void TearDownTestSuite() {
    std::cout << sum_.steps << " steps: " << sum_.finished << " finished, " << sum_.aborts
              << " aborted, " << sum_.preemptions << " preempted, " << sum_.hits << " tokens hit, "
              << sum_.compressed_hits << " compressed states hit, " << sum_.bare_hits
              << " without a tail, " << sum_.copies << " pages copied\n";
    if (sum_.steps < int64_t{kSeeds} * kStepsPerSeed) return;  // only some seeds were asked for
    EXPECT_GT(sum_.finished, sum_.steps / 50);
    EXPECT_GT(sum_.aborts, sum_.steps / 100);
    EXPECT_GT(sum_.preemptions, uint64_t(sum_.steps) / 200);
    EXPECT_GT(sum_.hits, uint64_t(sum_.steps) / 10);
    EXPECT_GT(sum_.copies, sum_.steps / 100);
    EXPECT_GT(sum_.compressed_hits, sum_.steps / 200);
    EXPECT_GT(sum_.bare_hits, sum_.steps / 2000);
  }
};
Totals SchedulerProperty::sum_;

TEST_P(SchedulerProperty, HoldsOnRandomTraces) {
  Trace trace(GetParam());
  for (int i = 0; i < StepsPerSeed() && !HasFailure(); ++i) trace.Step();
  if (!HasFailure()) trace.Drain();
  sum_.Add(trace.totals());
}

INSTANTIATE_TEST_SUITE_P(Seed, SchedulerProperty, testing::Range(1, kSeeds + 1));

}  // namespace
}  // namespace tangram
