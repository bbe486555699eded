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
  EXPECT_TRUE(step.sequences[0].samples);
  EXPECT_EQ(step.sequences[1].num_tokens, 22);  // what is left of 32
  EXPECT_FALSE(step.sequences[1].samples);
  ASSERT_EQ(step.page_updates.size(), 2u * 2);
  EXPECT_EQ(step.page_updates[0].count, 3);
  EXPECT_EQ(step.page_updates[2].count, 6);
  const auto& results = scheduler.Complete(std::vector<TokenId>{7});
  ASSERT_EQ(results.size(), 1u);
  EXPECT_FALSE(results[0].finished);
  scheduler.Schedule();
  EXPECT_EQ(step.sequences[0].id, 1u);
  EXPECT_EQ(step.sequences[0].num_tokens, 1);
  EXPECT_EQ(step.sequences[1].num_computed, 22);
  EXPECT_EQ(step.sequences[1].num_tokens, 18);
  scheduler.Complete(std::vector<TokenId>{7, 7});
  scheduler.CheckInvariants();
}

TEST(Scheduler, StopsAtStopTokensAndLengths) {
  Scheduler scheduler = Make(Config());
  Request request = Ask(1, 5, 4);
  request.stop.stop_token_ids = {9};
  request.stop.min_tokens = 2;
  scheduler.Add(request);
  scheduler.Schedule();
  EXPECT_FALSE(scheduler.Complete(std::vector<TokenId>{9})[0].finished);  // below min_tokens
  scheduler.Schedule();
  StepResult result = scheduler.Complete(std::vector<TokenId>{9})[0];
  EXPECT_TRUE(result.finished);
  EXPECT_EQ(result.reason, FinishReason::kStop);
  EXPECT_EQ(result.stop_token, 9);
  scheduler.Add(Ask(2, 5, 2));
  scheduler.Schedule();
  EXPECT_FALSE(scheduler.Complete(std::vector<TokenId>{1})[0].finished);
  scheduler.Schedule();
  result = scheduler.Complete(std::vector<TokenId>{1})[0];
  EXPECT_TRUE(result.finished);
  EXPECT_EQ(result.reason, FinishReason::kLength);
  EXPECT_FALSE(scheduler.HasWork());
  EXPECT_EQ(scheduler.Stats().pages_held, 0);
}

TEST(Scheduler, AbortBetweenScheduleAndCompleteGivesNoResult) {
  Scheduler scheduler = Make(Config());
  scheduler.Add(Ask(1, 5, 4));
  scheduler.Schedule();
  EXPECT_TRUE(scheduler.Abort(1));
  EXPECT_FALSE(scheduler.Abort(1));
  EXPECT_TRUE(scheduler.HasWork());
  EXPECT_TRUE(scheduler.Complete(std::vector<TokenId>{3}).empty());
  EXPECT_FALSE(scheduler.HasWork());
  EXPECT_EQ(scheduler.Stats().pages_held, 0);
}

TEST(Scheduler, FitsComparesThePeakWithThePool) {
  const Scheduler scheduler = Make(Config(20));
  EXPECT_TRUE(scheduler.Fits(Ask(1, 30, 11)));  // 40 processed tokens, 2 groups of 10 pages
  EXPECT_FALSE(scheduler.Fits(Ask(1, 30, 12)));
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
    processed += step.num_tokens;
    size_t samples = 0;
    for (const ScheduledSequence& seq : step.sequences) samples += seq.samples;
    scheduler.Complete(std::vector<TokenId>(samples, 7));
    scheduler.CheckInvariants();
  }
  EXPECT_TRUE(preempted);
  // Each token once, but for those whose pages the older one took from the end of the younger one's
  // state.
  const int64_t once = 2 * (23 + 29);
  EXPECT_GE(processed, once);
  EXPECT_LE(processed, once + 2 * 14 * 4 / 2);
  EXPECT_EQ(scheduler.NumCachedTokens(2), 0);
}

TEST(Scheduler, ARequestThatDoesNotFitYetWaitsAndThoseBehindItToo) {
  Scheduler scheduler = Make(Config(2 * 12));
  scheduler.Add(Ask(1, 30, 8));  // 8 pages a group of 12
  scheduler.Add(Ask(2, 30, 8, 1000));
  scheduler.Add(Ask(3, 2, 2, 2000));
  EXPECT_EQ(scheduler.Schedule().sequences.size(), 1u);
  scheduler.Complete(std::vector<TokenId>{7});
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
  for (int i = 0; i < 4; ++i) {
    scheduler.Schedule();
    scheduler.Complete(std::vector<TokenId>{100 + i});
  }
  Request next = Ask(2, 21, 4);
  for (const TokenId token : {100, 101, 102, 103, 50, 51}) next.prompt.push_back(token);
  scheduler.Add(next);
  const SchedulerOutput& step = scheduler.Schedule();
  EXPECT_EQ(step.sequences[0].num_computed, 24);
  EXPECT_EQ(step.sequences[0].num_tokens, 3);  // 103 was sampled, but never processed
  EXPECT_TRUE(step.page_copies.empty());
  EXPECT_EQ(scheduler.NumCachedTokens(2), 24);
  scheduler.Complete(std::vector<TokenId>{1});
  Request other = Ask(3, 21, 4);
  other.prompt.push_back(5);  // parts from the first one inside a page
  scheduler.Add(other);
  scheduler.Schedule();
  EXPECT_EQ(scheduler.NumCachedTokens(3), 21);
  EXPECT_EQ(step.page_copies.size(), 2u);  // one in each group
  EXPECT_EQ(scheduler.Stats().prefix_cache_hits, 24u + 21u);
}

}  // namespace
}  // namespace tangram
