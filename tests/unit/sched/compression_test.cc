// What compression asks of scheduling and of the prefix cache, in small cases.
#include "scheduler_fixture.h"

namespace tangram {
namespace {

using CompressionTest = SchedulerFixture;

TEST_F(CompressionTest, CountsWhatRanAndWhatCameBack) {
  Ask(1, Tokens(50, 0), 100);
  Step();  // crosses 16, 32 and 48; 14 pages at its peak, 11 after
  const SchedulerStats stats = scheduler_->Stats();
  EXPECT_EQ(stats.compression_runs, 3u);
  EXPECT_EQ(stats.pages_reclaimed, 3u);
  EXPECT_EQ(stats.longest_tokens, 26);
  EXPECT_EQ(stats.pages_reserved, 0);
}

TEST_F(CompressionTest, PagesOfAPromptInWorkAreReserved) {
  Make({.max_num_batched_tokens = 16});
  Ask(1, Tokens(50, 0), 10, 1.0f);
  Step();
  EXPECT_EQ(Held(), 2 * 4);
  EXPECT_EQ(scheduler_->Stats().pages_reserved, 2 * (13 - 4));
  while (Step().sequences[0].num_computed < 48) {
  }
  EXPECT_EQ(scheduler_->Stats().pages_reserved, 0);
}

TEST_F(CompressionTest, TellsWhatAdmissionWaitsFor) {
  const auto blocked = [&](SchedulerConfig config) {
    Make(config);
    Ask(1, Tokens(50, 0), 10, 1.0f);
    Ask(2, Tokens(50, 1000), 10, 1.0f);
    Step();
    const AdmissionsBlocked counts = scheduler_->Stats().blocked;
    return std::vector<uint64_t>{counts.pages, counts.slots, counts.tokens};
  };
  using Counts = std::vector<uint64_t>;
  EXPECT_EQ(blocked({.max_num_batched_tokens = 200}), (Counts{0, 0, 0}));
  EXPECT_EQ(blocked({.max_num_batched_tokens = 200, .num_pages = 30}), (Counts{1, 0, 0}));
  EXPECT_EQ(blocked({.max_num_seqs = 1, .max_num_batched_tokens = 200}), (Counts{0, 1, 0}));
  EXPECT_EQ(blocked({.max_num_batched_tokens = 32}), (Counts{0, 0, 1}));
}

TEST_F(CompressionTest, PagesFollowTheTable) {
  Ask(1, Tokens(50, 0), 100);
  SchedulerOutput step = Step();
  // 48 is crossed within the step: 8 + 16 and 16 + 16 tokens were there before, 12 + 2 and 24 + 2
  // after.
  EXPECT_EQ(CountWrites(step, 0, 0), 6);
  EXPECT_EQ(CountWrites(step, 0, 1), 8);
  EXPECT_EQ(step.page_writes.size(), 6u + 8u);
  EXPECT_EQ(Held(), 4 + 7);
  EXPECT_EQ(scheduler_->Stats().logical_tokens, 50);
  EXPECT_EQ(scheduler_->Stats().resident_tokens, (14 + 26) / 2);
  while (Step().sequences[0].num_computed < 64) {
  }
  EXPECT_EQ(Held(), 5 + 9);  // 65 tokens: 16 + 1 and 32 + 1
}

TEST_F(CompressionTest, AFollowingTurnFindsTheStateOfTheTurnBefore) {
  Ask(1, Tokens(50, 0), 10);
  Finish();
  Ask(2, Join(Tokens(50, 0), Join(std::vector<TokenId>(10, 7), Tokens(5, 500))), 4);
  const SchedulerOutput step = Step();
  EXPECT_EQ(step.sequences[0].num_computed, 59);  // the last token was never processed
  EXPECT_EQ(step.sequences[0].boundary, 48);
  EXPECT_EQ(cached_[2], 59);
}

TEST_F(CompressionTest, ATurnThatDropsReasoningFindsTheStateAtThePromptsEnd) {
  Ask(1, Tokens(53, 0), 60);  // decodes across 64, 80, 96, 112
  Finish();
  Ask(2, Join(Tokens(53, 0), Tokens(20, 500)), 4);
  Step();
  EXPECT_EQ(cached_[2], 53);
}

TEST_F(CompressionTest, NeverCutsInsideTheCompressedPart) {
  Ask(1, Tokens(60, 0), 2);
  Finish();
  Ask(2, Join(Tokens(40, 0), Tokens(20, 500)), 2);  // in common: up to 40, but the state is at 48
  const SchedulerOutput step = Step();
  EXPECT_EQ(step.sequences[0].num_computed, 0);
  // It ends a step before 48 and leaves a snapshot at 32, the last boundary in common.
  EXPECT_EQ(step.sequences[0].num_tokens, 48);
  Finish();
  Ask(3, Join(Tokens(40, 0), Tokens(20, 900)), 2);
  const SchedulerOutput next = Step();
  EXPECT_EQ(next.sequences[0].num_computed, 32);
  EXPECT_EQ(next.sequences[0].boundary, 32);  // compressed there already
}

TEST_F(CompressionTest, StatesBeforeTheFirstBoundaryServeAllRatios) {
  Ask(1, Tokens(12, 0), 2, 1.0f);
  Finish();
  Ask(2, Join(Tokens(12, 0), Tokens(20, 500)), 2);
  Step();
  EXPECT_EQ(cached_[2], 12);
  Finish();
  Ask(3, Join(Tokens(12, 0), Tokens(20, 500)), 2, 1.0f);
  Step();
  EXPECT_EQ(cached_[3], 12);  // but not those behind it
}

TEST_F(CompressionTest, ACommonSystemPromptIsStoredOnce) {
  constexpr int kSystem = 10 * kChunk, kUsers = 50, kQuestion = 6;
  Make({.max_num_seqs = kUsers, .max_num_batched_tokens = 512});
  const RetentionTable table = Half();
  const std::vector<TokenId> system = Tokens(kSystem, 0);
  for (RequestId id = 1; id <= 2; ++id) {  // the first tells it, the second leaves a state there
    Ask(id, Join(system, Tokens(kQuestion, 1000 * int(id))), 1);
    Finish();
  }
  for (RequestId id = 3; id < 3 + kUsers; ++id) {
    Ask(id, Join(system, Tokens(kQuestion, 1000 * int(id))), 60);
  }
  Step();
  int n = kSystem + kQuestion;
  const int64_t shared = (table.Retained(0, kSystem) + table.Retained(1, kSystem)) / kPage;
  EXPECT_EQ(Held(), shared + kUsers * (table.Pages(n, kPage) - shared));
  for (; n < kSystem + 2 * kChunk + 5; ++n) Step();  // past two boundaries
  const int64_t window = kGroups * kWindow / kPage;
  EXPECT_EQ(Held(), shared - window + kUsers * (table.Pages(n, kPage) - shared + window));
  EXPECT_EQ(scheduler_->Stats().num_preemptions, 0u);
}

TEST_F(CompressionTest, CopiesAreMadeOnlyOfWhatIsSharedAndWritten) {
  Ask(1, Tokens(56, 0), 40);
  Step();  // leaves the prompt's whole pages: 12 + 8 and 24 + 8 tokens at 48
  int64_t copies = 0;
  SchedulerOutput step;
  do {
    step = Step();
    copies += step.page_copies.size();
  } while (step.sequences[0].num_computed < 64);
  // At 64, groups become 16 + 1 and 32 + 1 long; 12 - 4 and 24 - 4 tokens never change.
  EXPECT_EQ(copies, (5 - 2) + (9 - 5));
  do {
    step = Step();
    EXPECT_EQ(step.page_copies.size(), 0u);  // all its own now
  } while (step.sequences[0].num_computed < 80);
}

TEST_F(CompressionTest, WithoutPagesForCopiesTheEntryIsDropped) {
  SchedulerConfig config{.max_num_batched_tokens = 64};
  config.num_pages = Half().PeakPages(0, 56 + 39, kPage);
  Make(config);
  Ask(1, Tokens(56, 0), 40);
  int64_t copies = 0;
  while (scheduler_->HasWork()) copies += Step().page_copies.size();
  EXPECT_EQ(copies, 0);
  EXPECT_EQ(scheduler_->Stats().num_preemptions, 0u);
}

TEST_F(CompressionTest, AScorerSeesTheEndOfItsChunkAgain) {
  SchedulerConfig config{.max_num_batched_tokens = 64};
  config.lookback = 6;
  Make(config);
  Ask(1, Tokens(62, 0), 2);
  Finish();
  Ask(2, Join(Tokens(62, 0), Tokens(20, 500)), 2);
  EXPECT_EQ(Step().sequences[0].num_computed, 64 - 6);
}

TEST_F(CompressionTest, StepsEndAtBoundariesForAScorerWithAPassOfItsOwn) {
  SchedulerConfig config{.max_num_batched_tokens = 64};
  config.stop_at_boundaries = true;
  Make(config);
  Ask(1, Tokens(40, 0), 2);
  Ask(2, Tokens(40, 0), 2, 1.0f);  // never compressed: one step
  SchedulerOutput step = Step();
  EXPECT_EQ(step.sequences[0].num_tokens, 16);
  EXPECT_EQ(step.sequences[1].num_tokens, 40);
  EXPECT_TRUE(step.chunks.empty());
  for (const int boundary : {16, 32}) {  // and tells the chunk that ends where it begins
    step = Step();
    EXPECT_EQ(step.sequences.back().num_tokens, boundary == 16 ? 16 : 8);
    ASSERT_EQ(step.chunks.size(), 1u);
    EXPECT_EQ(step.sequences[step.chunks[0].sequence].id, 1u);
    EXPECT_EQ(step.chunks[0].tokens, Tokens(16, boundary - 16));
  }
}

// What a conversation leaves behind it as it goes on must not push others out.
TEST_F(CompressionTest, StatesThatALongerOneReplacesAreEvictedFirst) {
  SchedulerConfig config{.max_num_seqs = 1, .max_num_batched_tokens = 64};
  config.num_pages = 60;
  Make(config);
  Ask(1, Tokens(40, 5000), 2);
  Finish();
  std::vector<TokenId> conversation = Tokens(30, 0);
  for (RequestId turn = 2; turn < 7; ++turn) {
    Ask(turn, conversation, 10);
    Finish();
    conversation =
        Join(Join(conversation, std::vector<TokenId>(10, 7)), Tokens(10, int(turn) * 100));
  }
  EXPECT_GT(scheduler_->Stats().prefix_cache_hits, 4u * 60);
  Ask(7, Join(Tokens(40, 5000), std::vector<TokenId>{7, 8}), 2);  // older than all of it
  Step();
  EXPECT_GE(cached_[7], 40);
}

}  // namespace
}  // namespace tangram
