#include "random_trace.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <climits>
#include <utility>

namespace tangram {
void TraceTotals::Add(const TraceTotals& other) {
  steps += other.steps;
  finished += other.finished;
  aborts += other.aborts;
  failed += other.failed;
  copies += other.copies;
  chunks += other.chunks;
  compressed_hits += other.compressed_hits;
  bare_hits += other.bare_hits;
  preemptions += other.preemptions;
  hits += other.hits;
  pending_aborts += other.pending_aborts;
  pending_preemptions += other.pending_preemptions;
  wasted_rows += other.wasted_rows;
  idle += other.idle;
}

RandomTrace::RandomTrace(int seed, Depth depth)
    : random_(seed),
      depth_(depth),
      config_(RandomConfig()),
      tables_(RandomTables()),
      vocab_size_(Uniform(2, 4)),
      scheduler_(config_, tables_),
      model_({config_.max_num_seqs, config_.num_groups, config_.max_pages, config_.page_size,
              config_.num_pages, vocab_size_},
             rule_) {}

SchedulerConfig RandomTrace::RandomConfig() {
  SchedulerConfig config;
  config.page_size = 1 << Uniform(0, 3);
  chunk_ = config.page_size * Uniform(1, 3);
  rule_.window = Uniform(1, std::max(1, chunk_ / 2));
  rule_.sinks = Uniform(0, std::min(2, chunk_ - rule_.window));
  config.num_groups = Uniform(1, 3);
  config.max_num_seqs = Uniform(1, 8);
  config.max_num_batched_tokens = Uniform(1, 40);
  config.max_model_len = Uniform(16, 120);
  config.max_pages = (config.max_model_len + config.page_size - 1) / config.page_size;
  config.num_pages = config.num_groups * (config.max_pages + Uniform(0, config.max_pages));
  config.enable_prefix_caching = Chance(90);
  config.priority_policy = Chance(30);
  config.window = rule_.window;
  config.lookback = Chance(70) ? 0 : Chance(50) ? rule_.window : chunk_;
  config.stop_at_boundaries = Chance(20);
  return config;
}

// Ratio 1, and up to two others with any increments.
std::vector<RetentionTable> RandomTrace::RandomTables() {
  std::vector<RetentionTable> tables;
  tables.push_back(RetentionTable::Full(config_.num_groups, chunk_));
  const int floor = rule_.sinks + rule_.window, groups = config_.num_groups;
  const int page = config_.page_size;
  for (int percent = 30; percent <= 60; percent += 30) {
    if (Chance(20)) continue;
    std::vector<int32_t> retained;
    for (int i = 0; i < (config_.max_model_len / chunk_ + 1) * groups; ++i) {
      const int before = i < groups ? 0 : retained[i - groups];
      const int least = (std::max(before, floor) + page - 1) / page * page;
      const int most = (before + chunk_) / page * page;
      retained.push_back(least + Uniform(0, (most - least) / page * percent / 60) * page);
    }
    tables.emplace_back(groups, chunk_, percent, std::move(retained));
  }
  return tables;
}

const RetentionTable& RandomTrace::TableOf(const Request& request) const {
  return *std::ranges::find(tables_, request.compression_percent(), &RetentionTable::percent);
}

// New tokens after the beginning of what was said before: prefixes in common of every length.
std::vector<TokenId> RandomTrace::RandomPrompt(int length) {
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

void RandomTrace::Ask() {
  Request request{.id = next_id_++};
  request.stop.max_tokens = Uniform(1, std::min(40, config_.max_model_len - 1));
  request.stop.min_tokens = Uniform(0, 3);
  if (Chance(30)) request.stop.stop_token_ids = {Uniform(0, vocab_size_ - 1)};
  request.prompt = RandomPrompt(Uniform(1, config_.max_model_len - request.stop.max_tokens));
  request.priority = std::vector{INT_MIN, 0, 1, INT_MAX}[Uniform(0, 3)];
  request.cache_salt = SaltOf(Chance(70) ? 0 : Chance(50) ? 1 : kFirstFewShare + next_id_ / 16);
  const int last = int(tables_.size()) - 1;
  const RetentionTable& table = tables_[Uniform(Chance(25) ? 0 : (last + 1) / 2, last)];
  request.compression_ratio = float(table.percent()) / 100;
  Asked asked{.request = request,
              .tokens = request.prompt,
              .num_known = int(request.prompt.size()),
              .dense = DenseRun(TableOf(request), rule_, request.cache_salt)};
  FindAnswer(asked);
  scheduler_.Add(request);
  asked_.emplace(request.id, std::move(asked));
}

void RandomTrace::FindAnswer(Asked& asked) const {
  const StopParams& stop = asked.request.stop;
  DenseRun alone = asked.dense;
  for (const TokenId token : asked.request.prompt) alone.Process(token);
  for (int i = 1; i <= stop.max_tokens; ++i) {
    const TokenId token = alone.Next(vocab_size_);
    asked.tokens.push_back(token);
    if (i >= stop.min_tokens && stop.stop_token_ids == std::vector{token}) {
      asked.reason = FinishReason::kStop;
      return;
    }
    alone.Process(token);
  }
}

// What others may do between any two calls, but for Schedule and Advance.
void RandomTrace::Interfere() {
  if (!draining_ && asked_.size() < 12 && Chance(3)) Ask();
  if (Uniform(0, 2999) == 0) scheduler_.ClearPrefixCache();
  if (asked_.empty() || !Chance(1)) return;
  const auto it = std::next(asked_.begin(), Uniform(0, int(asked_.size()) - 1));
  totals_.pending_aborts += it->second.num_pending > 0;
  ++totals_.aborts;
  EXPECT_TRUE(scheduler_.Abort(it->first));
  EXPECT_FALSE(scheduler_.Abort(it->first));
  Remove(it->first);
}

void RandomTrace::Remove(RequestId id) {
  const auto it = asked_.find(id);
  if (it->second.slot >= 0) model_.Forget(it->second.slot);
  asked_.erase(it);
}

void RandomTrace::Step() {
  while (asked_.size() < 12 && Chance(asked_.size() < 2 ? 50 : 15)) Ask();
  RunStep();
}

// As the engine's loop.
void RandomTrace::RunStep() {
  Interfere();
  std::optional<StepInFlight> launched = Launch();
  Interfere();
  if (in_flight_) Resolve(*std::exchange(in_flight_, std::nullopt));
  Interfere();
  const bool queue = depth_ == Depth::kTwo || (depth_ == Depth::kSwitching && Chance(80));
  if (launched) {
    Draw(*launched);
    if (queue) {
      in_flight_ = std::move(launched);
    } else {
      Interfere();
      Resolve(*launched);
    }
  }
  scheduler_.CheckInvariants();
}

std::optional<RandomTrace::StepInFlight> RandomTrace::Launch() {
  const SchedulerOutput& output = scheduler_.Schedule();
  ++totals_.steps;
  totals_.copies += std::ssize(output.page_copies);
  for (const RequestId id : output.preempted) {
    totals_.pending_preemptions += asked_.at(id).num_pending > 0;
    model_.Forget(std::exchange(asked_.at(id).slot, -1));
  }
  if (output.empty()) {
    CheckEmpty(output);
    return std::nullopt;
  }
  EXPECT_LE(output.num_tokens(), config_.max_num_batched_tokens);
  CheckChunks(output);
  model_.Begin(output);
  StepInFlight step;
  std::span<const TokenId> tokens = output.tokens;
  for (const ScheduledSequence& seq : output.sequences) {
    Asked& asked = asked_.at(seq.id);
    const auto own = tokens.first(seq.num_tokens);
    tokens = tokens.subspan(seq.num_tokens);
    CheckHit(seq, asked);
    CheckPart(seq, own, asked);
    const TokenId next = model_.Run(seq, tables_[seq.retention], asked.request.cache_salt, own);
    if (!asked.failed) CheckKv(seq, asked);
    if (!seq.needs_sampling) continue;
    step.ids.push_back(seq.id);
    step.tokens.push_back(next);
    ++asked.num_pending;
  }
  EXPECT_TRUE(tokens.empty());
  scheduler_.Advance();
  return step;
}

// Of those that have not ended since.
void RandomTrace::Draw(StepInFlight& step) {
  for (size_t i = 0; i < step.ids.size(); ++i) {
    const auto it = asked_.find(step.ids[i]);
    if (it == asked_.end()) {
      ++totals_.wasted_rows;
      step.drawn.push_back(Uniform(-1, vocab_size_));
      continue;
    }
    it->second.failed = Uniform(0, 399) == 0;
    step.drawn.push_back(it->second.failed ? -1 : step.tokens[i]);
    model_.Draw(it->second.slot, step.drawn[i]);
  }
}

}  // namespace tangram
