#include <gtest/gtest.h>

#include <algorithm>

#include "random_trace.h"

namespace tangram {
namespace {

int Common(const std::vector<TokenId>& a, const std::vector<TokenId>& b) {
  return static_cast<int>(std::ranges::mismatch(a, b).in1 - a.begin());
}

}  // namespace

// It is not queued, so nothing may hang on it.
void RandomTrace::CheckEmpty(const SchedulerOutput& output) {
  ASSERT_TRUE(asked_.empty() || in_flight_);
  totals_.idle += !asked_.empty();
  EXPECT_TRUE(output.tokens.empty() && output.chunks.empty());
  EXPECT_TRUE(output.page_writes.empty() && output.page_copies.empty());
}

// Only what some request before it left that did not fail.
void RandomTrace::CheckHit(const ScheduledSequence& seq, Asked& asked) {
  asked.slot = seq.slot;
  if (asked.num_cached >= 0) return;
  asked.num_cached = seq.num_computed;
  totals_.compressed_hits += seq.boundary > 0;
  totals_.bare_hits += seq.boundary > 0 && seq.boundary == seq.num_computed;
  const uint64_t salt = NumberOf(asked.request.cache_salt);
  if (salt < kFirstFewShare) return;
  int most = 0;
  for (const auto& [id, tokens] : ran_[salt]) {
    most = std::max(most, Common(tokens, asked.request.prompt));
  }
  ASSERT_LE(asked.num_cached, most) << "request " << seq.id;
  ran_[salt].emplace(seq.id, asked.tokens);
}

void RandomTrace::CheckPart(const ScheduledSequence& seq, std::span<const TokenId> tokens,
                            Asked& asked) {
  const int end = seq.num_computed + seq.num_tokens;
  ASSERT_LE(end, asked.num_known + asked.num_pending);
  ASSERT_EQ(seq.needs_sampling, end == asked.num_known + asked.num_pending);
  const int most = int(asked.request.prompt.size()) + asked.request.stop.max_tokens;
  ASSERT_LT(end, most) << "the last token is processed";
  for (int i = seq.num_computed; i < end; ++i) {
    const TokenId known = i < asked.num_known ? asked.tokens[i] : SchedulerOutput::kLastDrawn;
    ASSERT_EQ(tokens[i - seq.num_computed], known) << "request " << seq.id << " token " << i;
  }
}

void RandomTrace::CheckKv(const ScheduledSequence& seq, Asked& asked) {
  const RetentionTable& table = tables_[seq.retention];
  if (asked.dense.num_computed() > seq.num_computed) {  // preempted, and its state was cut
    asked.dense = DenseRun(table, rule_, asked.request.cache_salt);
  }
  while (asked.dense.num_computed() < seq.num_computed + seq.num_tokens) {
    asked.dense.Process(asked.tokens.at(asked.dense.num_computed()));
  }
  for (int group = 0; group < config_.num_groups; ++group) {
    ASSERT_EQ(int(asked.dense.group(group).size()),
              table.Length(group, asked.dense.num_computed()));
  }
  ASSERT_EQ(model_.Difference(seq.slot, asked.dense), "") << "request " << seq.id;
}

// Of those that the step compresses, all and no others.
void RandomTrace::CheckChunks(const SchedulerOutput& output) {
  std::vector<std::pair<int, std::vector<TokenId>>> chunks, expected;
  for (const ChunkAtBoundary& chunk : output.chunks)
    chunks.emplace_back(chunk.sequence, chunk.tokens);
  for (size_t i = 0; i < output.sequences.size() && config_.stop_at_boundaries; ++i) {
    const ScheduledSequence& seq = output.sequences[i];
    if (tables_[seq.retention].full()) continue;
    for (int n = seq.num_computed; n < seq.num_computed + seq.num_tokens; ++n) {
      if (n % chunk_ != 0 || n == seq.boundary) continue;
      ASSERT_EQ(n, seq.num_computed) << "a step goes beyond a boundary";
      const auto first = asked_.at(seq.id).tokens.begin() + n - chunk_;
      expected.emplace_back(i, std::vector(first, first + chunk_));
    }
  }
  ASSERT_EQ(chunks, expected);
  totals_.chunks += std::ssize(chunks);
}

void RandomTrace::Resolve(const StepInFlight& step) {
  std::vector<RequestId> live;
  std::ranges::copy_if(step.ids, std::back_inserter(live),
                       [&](RequestId id) { return asked_.contains(id); });
  const std::vector<StepResult>& results = scheduler_.Resolve(step.drawn);
  ASSERT_EQ(results.size(), live.size());
  for (size_t i = 0; i < results.size(); ++i) {
    ASSERT_EQ(results[i].id, live[i]);
    ASSERT_EQ(step.ids.at(results[i].row), live[i]);
    Tell(results[i]);
  }
}

void RandomTrace::Tell(const StepResult& result) {
  Asked& asked = asked_.at(result.id);
  --asked.num_pending;
  EXPECT_EQ(result.num_cached_tokens, asked.num_cached);
  if (asked.failed) {
    ASSERT_TRUE(result.finished && result.reason == FinishReason::kError && result.token == -1);
    ++totals_.failed;
    ran_[NumberOf(asked.request.cache_salt)].erase(result.id);
    return Remove(result.id);
  }
  ASSERT_EQ(result.token, asked.tokens.at(asked.num_known)) << "request " << result.id;
  ++asked.num_known;
  ASSERT_EQ(result.finished, asked.num_known == int(asked.tokens.size()));
  if (!result.finished) return;
  EXPECT_EQ(result.reason, asked.reason);
  EXPECT_EQ(result.stop_token, asked.reason == FinishReason::kStop ? result.token : -1);
  ++totals_.finished;
  if (histories_.size() < 12) {
    histories_.push_back(std::move(asked.tokens));
  } else {
    histories_[Uniform(0, 11)] = std::move(asked.tokens);
  }
  Remove(result.id);
}

void RandomTrace::Drain() {
  draining_ = true;
  for (int i = 0; i < 10000 && scheduler_.HasWork(); ++i) RunStep();
  EXPECT_TRUE(asked_.empty() && !in_flight_);
  EXPECT_EQ(scheduler_.Stats().pages_held, 0);
  scheduler_.ClearPrefixCache();
  scheduler_.CheckInvariants();
  const SchedulerStats stats = scheduler_.Stats();
  EXPECT_EQ(stats.pages_held + stats.pages_cached, 0);
  totals_.preemptions = stats.num_preemptions;
  totals_.hits = stats.prefix_cache_hits;
}

}  // namespace tangram
