#include "sched/scheduler.h"

#include <gtest/gtest.h>

#include <numeric>

namespace tangram {
namespace {

SchedulerConfig Config(int64_t num_pages = 1000) {
  return {.max_num_seqs = 4,
          .max_num_batched_tokens = 32,
          .max_model_len = 256,
          .page_size = 4,
          .num_groups = 2,
          .num_pages = num_pages};
}

Scheduler Make(const SchedulerConfig& config) {
  std::vector<RetentionTable> tables;
  tables.push_back(RetentionTable::Full(config.num_groups, 64));
  return Scheduler(config, std::move(tables));
}

// Queues a step, and tells its tokens: one for each sequence that draws.
std::vector<StepResult> RunStep(Scheduler& scheduler, std::vector<TokenId> drawn) {
  scheduler.Schedule();
  scheduler.Advance();
  return scheduler.Resolve(drawn);
}

Request Ask(RequestId id, int prompt, int max_tokens, int first_token = 0) {
  Request request{.id = id, .prompt = std::vector<TokenId>(prompt)};
  std::iota(request.prompt.begin(), request.prompt.end(), first_token);
  request.stop.max_tokens = max_tokens;
  return request;
}

TEST(Scheduler, MixesDecodesWithChunksOfPrefill) {
  Scheduler scheduler = Make(Config());
  scheduler.Add(Ask(1, 10, 8));
  scheduler.Add(Ask(2, 40, 8, 1000));
  const SchedulerOutput& step = scheduler.Schedule();
  ASSERT_EQ(step.sequences.size(), 2u);
  EXPECT_EQ(step.sequences[0].num_tokens, 10);
  EXPECT_TRUE(step.sequences[0].needs_sampling);
  EXPECT_EQ(step.sequences[1].num_tokens, 22);  // what is left of 32
  EXPECT_FALSE(step.sequences[1].needs_sampling);
  EXPECT_EQ(step.page_writes.size(), 2u * (3 + 6));
  EXPECT_EQ(step.tokens.size(), 32u);
  EXPECT_EQ(step.tokens[9], 9);
  EXPECT_EQ(step.tokens[10], 1000);
  scheduler.Advance();
  const auto& results = scheduler.Resolve(std::vector<TokenId>{7});
  ASSERT_EQ(results.size(), 1u);
  EXPECT_FALSE(results[0].finished);
  scheduler.Schedule();
  EXPECT_EQ(step.sequences[0].id, 1u);
  EXPECT_EQ(step.sequences[0].num_tokens, 1);
  EXPECT_EQ(step.sequences[1].num_computed, 22);
  EXPECT_EQ(step.sequences[1].num_tokens, 18);
  EXPECT_EQ(step.tokens[0], 7);
  EXPECT_EQ(step.tokens[1], 1022);
  scheduler.Advance();
  scheduler.Resolve(std::vector<TokenId>{7, 7});
  scheduler.CheckInvariants();
}

TEST(Scheduler, StopsAtStopTokensAndLengths) {
  Scheduler scheduler = Make(Config());
  Request request = Ask(1, 5, 4);
  request.stop.stop_token_ids = {9};
  request.stop.min_tokens = 2;
  scheduler.Add(request);
  EXPECT_FALSE(RunStep(scheduler, {9})[0].finished);  // below min_tokens
  StepResult result = RunStep(scheduler, {9})[0];
  EXPECT_TRUE(result.finished);
  EXPECT_EQ(result.reason, FinishReason::kStop);
  EXPECT_EQ(result.stop_token, 9);
  scheduler.Add(Ask(2, 5, 2));
  EXPECT_FALSE(RunStep(scheduler, {1})[0].finished);
  result = RunStep(scheduler, {1})[0];
  EXPECT_TRUE(result.finished);
  EXPECT_EQ(result.reason, FinishReason::kLength);
  EXPECT_FALSE(scheduler.HasWork());
  EXPECT_EQ(scheduler.Stats().pages_held, 0);
}

TEST(Scheduler, PreemptionLosesNothing) {
  Scheduler scheduler = Make(Config(2 * 14));  // two requests of 23 tokens fit, but they grow
  scheduler.Add(Ask(1, 23, 30));
  scheduler.Add(Ask(2, 23, 30, 1000));
  int64_t processed = 0;
  bool preempted = false;
  while (scheduler.HasWork()) {
    const SchedulerOutput step = scheduler.Schedule();
    for (const RequestId id : step.preempted) EXPECT_EQ(id, 2u);  // the younger one
    preempted = preempted || !step.preempted.empty();
    processed += step.num_tokens();
    scheduler.Advance();
    size_t draws = 0;
    for (const ScheduledSequence& seq : step.sequences) draws += seq.needs_sampling;
    for (const StepResult& result : scheduler.Resolve(std::vector<TokenId>(draws, 7))) {
      EXPECT_EQ(result.num_cached_tokens, 0);
    }
    scheduler.CheckInvariants();
  }
  EXPECT_TRUE(preempted);
  // Each token once, but for those whose pages the older one took from the end of the younger one's
  // state.
  const int64_t once = 2 * (23 + 29);
  EXPECT_GE(processed, once);
  EXPECT_LE(processed, once + 2 * 14 * 4 / 2);
}

TEST(Scheduler, ARequestThatDoesNotFitYetWaitsAndThoseBehindItToo) {
  Scheduler scheduler = Make(Config(2 * 12));
  scheduler.Add(Ask(1, 30, 8));  // 8 pages a group of 12
  scheduler.Add(Ask(2, 30, 8, 1000));
  scheduler.Add(Ask(3, 2, 2, 2000));
  EXPECT_EQ(RunStep(scheduler, {7}).size(), 1u);
  EXPECT_EQ(scheduler.Stats().num_waiting, 2);
  scheduler.Abort(1);  // its state stays, and can be evicted
  EXPECT_EQ(scheduler.Stats().pages_held, 0);
  EXPECT_EQ(scheduler.Stats().pages_cached, 2 * 8);
  EXPECT_EQ(scheduler.Schedule().sequences[0].id, 2u);
}

TEST(Scheduler, PriorityGoesFirstWhereThePolicySaysSo) {
  for (const bool priority : {false, true}) {
    SchedulerConfig config = Config();
    config.priority_policy = priority;
    Scheduler scheduler = Make(config);
    scheduler.Add(Ask(1, 4, 4));
    Request urgent = Ask(2, 4, 4, 1000);
    urgent.priority = -1;
    scheduler.Add(urgent);
    EXPECT_EQ(scheduler.Schedule().sequences[0].id, priority ? 2u : 1u);
  }
}

TEST(Scheduler, AFollowingTurnProcessesOnlyWhatIsNew) {
  Scheduler scheduler = Make(Config());
  scheduler.Add(Ask(1, 21, 4));
  for (int i = 0; i < 4; ++i) RunStep(scheduler, {100 + i});
  Request next = Ask(2, 21, 4);
  for (const TokenId token : {100, 101, 102, 103, 50, 51}) next.prompt.push_back(token);
  scheduler.Add(next);
  const SchedulerOutput& step = scheduler.Schedule();
  EXPECT_EQ(step.sequences[0].num_computed, 24);
  EXPECT_EQ(step.sequences[0].num_tokens, 3);  // 103 was sampled, but never processed
  EXPECT_TRUE(step.page_copies.empty());
  scheduler.Advance();
  EXPECT_EQ(scheduler.Resolve(std::vector<TokenId>{1})[0].num_cached_tokens, 24);
  Request other = Ask(3, 21, 4);
  other.prompt.push_back(5);  // parts from the first one inside a page
  scheduler.Add(other);
  scheduler.Schedule();
  EXPECT_EQ(step.sequences[1].num_computed, 21);
  EXPECT_EQ(step.page_copies.size(), 2u);  // one in each group
  EXPECT_EQ(scheduler.Stats().prefix_cache_hits, 24u + 21u);
}

}  // namespace
}  // namespace tangram
