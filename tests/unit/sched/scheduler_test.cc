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
          .num_rows = 2,
          .num_pages = num_pages};
}

Scheduler Make(const SchedulerConfig& config) {
  std::vector<RetentionTable> tables;
  tables.push_back(RetentionTable::Full(config.num_rows, 64));
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
  EXPECT_EQ(step.page_updates.size(), 2u * (3 + 6));
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
  EXPECT_TRUE(scheduler.Fits(Ask(1, 30, 11)));  // 40 processed tokens, 2 rows of 10 pages
  EXPECT_FALSE(scheduler.Fits(Ask(1, 30, 12)));
}

}  // namespace
}  // namespace tangram
