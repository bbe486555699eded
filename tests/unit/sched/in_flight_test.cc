// A step is scheduled before the tokens of the one before are known.
#include "scheduler_fixture.h"

namespace tangram {
namespace {

constexpr TokenId kStop = 9, kPending = SchedulerOutput::kLastDrawn;

class InFlightTest : public SchedulerFixture {
 protected:
  // What the cache gives to who goes on from `tokens`: how many, and where they are compressed.
  std::pair<int, int> Found(std::vector<TokenId> tokens, float ratio = 0.38f) {
    Ask(100, Join(std::move(tokens), {500, 501}), 1, ratio);
    const SchedulerOutput output = Queue();
    scheduler_->Abort(100);
    Tell({1});
    return {output.sequences[0].num_computed, output.sequences[0].boundary};
  }
};

TEST_F(InFlightTest, TheNextStepGoesOnFromTheTokenThatIsBeingDrawn) {
  Ask(1, Tokens(5, 0), 10);
  EXPECT_EQ(Queue().tokens, Tokens(5, 0));
  const SchedulerOutput next = Queue();
  EXPECT_EQ(next.tokens, std::vector{kPending});
  EXPECT_EQ(next.sequences[0].num_computed, 5);
  EXPECT_TRUE(next.sequences[0].decode && next.sequences[0].needs_sampling);
  EXPECT_EQ(scheduler_->num_in_flight(), 2);
  EXPECT_EQ(Tell({30})[0].token, 30);
  EXPECT_EQ(Queue().tokens, std::vector{kPending});
  EXPECT_EQ(Tell({31})[0].token, 31);
  EXPECT_EQ(Tell({32})[0].token, 32);
  EXPECT_EQ(Queue().tokens, std::vector{32});  // all is known again
}

TEST_F(InFlightTest, AStopFoundWhileItsSequenceIsInTheNextStep) {
  Ask(1, Tokens(5, 0), 10, 0.38f, {kStop});
  Queue();
  Queue();
  const std::vector<StepResult> results = Tell({kStop});
  ASSERT_EQ(results.size(), 1u);
  EXPECT_TRUE(results[0].finished && results[0].reason == FinishReason::kStop);
  EXPECT_EQ(Held(), 0);
  EXPECT_TRUE(scheduler_->HasWork());  // the row that is wasted
  EXPECT_TRUE(Queue().empty());
  EXPECT_TRUE(Tell({30}).empty());
  EXPECT_FALSE(scheduler_->HasWork());
  // It processed the stop token.
  EXPECT_EQ(Found(Join(Tokens(5, 0), {kStop})), std::pair(6, 0));
}

TEST_F(InFlightTest, AStopFoundWhileTheNextStepCrossesABoundary) {
  Ask(1, Tokens(16, 0), 10, 0.38f, {kStop});
  Queue();
  EXPECT_EQ(Queue().sequences[0].num_computed, 16);
  Tell({kStop});
  Tell({30});
  EXPECT_EQ(Found(Join(Tokens(16, 0), {kStop})), std::pair(17, 16));
}

TEST_F(InFlightTest, ARequestIsAbortedBehindAStepThatIsQueued) {
  Ask(1, Tokens(5, 0), 10);
  Queue();
  Queue();
  EXPECT_TRUE(scheduler_->Abort(1));
  EXPECT_FALSE(scheduler_->Abort(1));
  EXPECT_EQ(Held(), 0);
  scheduler_->CheckInvariants();
  EXPECT_TRUE(Tell({30}).empty());
  EXPECT_TRUE(Queue().empty());
  EXPECT_TRUE(Tell({31}).empty());
  EXPECT_FALSE(scheduler_->HasWork());
  // What it drew was never known, so it is no part of the state.
  EXPECT_EQ(Found(Join(Tokens(5, 0), {30, 31})), std::pair(5, 0));
}

TEST_F(InFlightTest, ARequestIsAbortedWhileItCrossesABoundary) {
  Ask(1, Tokens(16, 0), 10);
  Queue();
  Queue();
  scheduler_->Abort(1);
  scheduler_->CheckInvariants();
  Tell({30});
  Tell({31});
  EXPECT_EQ(Found(Join(Tokens(16, 0), {30})), std::pair(16, 16));  // compressed, nothing behind it
}

TEST_F(InFlightTest, AnAbortBetweenTheResultsOfTwoSteps) {
  Ask(1, Tokens(5, 0), 10);
  Ask(2, Tokens(5, 1000), 10);
  Queue();
  Queue();
  EXPECT_EQ(Tell({30, 40}).size(), 2u);
  scheduler_->Abort(1);
  EXPECT_EQ(Queue().sequences.size(), 1u);
  const std::vector<StepResult> results = Tell({31, 41});
  ASSERT_EQ(results.size(), 1u);
  EXPECT_EQ(results[0].id, 2u);
  EXPECT_EQ(results[0].row, 1);
  EXPECT_EQ(results[0].token, 41);
}

TEST_F(InFlightTest, TheLastTokenIsForeseenAndNoRowWasted) {
  for (const int max_tokens : {1, 2}) {
    Ask(max_tokens, Tokens(5, 0), max_tokens);
    Queue();
    if (max_tokens == 2) {
      EXPECT_EQ(Queue().sequences.size(), 1u);
      EXPECT_FALSE(Tell({30})[0].finished);
    }
    EXPECT_TRUE(Queue().empty());  // though something is in flight
    EXPECT_TRUE(scheduler_->HasWork());
    EXPECT_EQ(scheduler_->num_in_flight(), 1);
    const StepResult result = Tell({31})[0];
    EXPECT_TRUE(result.finished && result.reason == FinishReason::kLength);
    EXPECT_FALSE(scheduler_->HasWork());
  }
}

class PendingPreemptionTest : public InFlightTest {
 protected:
  // Two requests that grow until the second is preempted, while its token is in flight.
  void PreemptTheSecond() {
    SchedulerConfig config{.max_num_batched_tokens = 64};
    config.num_pages = kGroups * 12;
    Make(config);
    Ask(1, Tokens(20, 0), 28, 1.0f, {kStop});
    Ask(2, Tokens(20, 1000), 28, 1.0f, {kStop});
    Queue();
    while (true) {
      const SchedulerOutput output = Queue();
      if (!output.preempted.empty()) {
        EXPECT_EQ(output.preempted, std::vector<RequestId>{2});
        EXPECT_EQ(output.sequences.size(), 1u);
        return;
      }
      Tell({++last_, last_ + 1000});
    }
  }
  TokenId last_ = 100;
};

TEST_F(PendingPreemptionTest, ItsTokenIsTakenWhileItWaits) {
  PreemptTheSecond();
  const std::vector<StepResult> results = Tell({last_ + 1, 5000});
  ASSERT_EQ(results.size(), 2u);
  EXPECT_EQ(results[1].id, 2u);
  EXPECT_EQ(results[1].token, 5000);
  scheduler_->Abort(1);
  Tell({0});
  const SchedulerOutput output = Queue();  // it is back
  EXPECT_EQ(output.sequences[0].id, 2u);
  EXPECT_EQ(output.tokens.back(), 5000);
}

TEST_F(PendingPreemptionTest, ItsTokenIsTheLast) {
  PreemptTheSecond();
  const std::vector<StepResult> results = Tell({last_ + 1, kStop});
  ASSERT_EQ(results.size(), 2u);
  EXPECT_TRUE(results[1].finished && results[1].reason == FinishReason::kStop);
  EXPECT_EQ(scheduler_->Stats().num_waiting, 0);
}

TEST_F(PendingPreemptionTest, ItIsAbortedWhileItWaits) {
  PreemptTheSecond();
  EXPECT_TRUE(scheduler_->Abort(2));
  EXPECT_EQ(Tell({last_ + 1, 5000}).size(), 1u);
}

TEST_F(PendingPreemptionTest, ItsDrawFails) {
  PreemptTheSecond();
  EXPECT_GT(scheduler_->Stats().pages_cached, 0);
  EXPECT_EQ(Tell({last_ + 1, -1})[1].reason, FinishReason::kError);
  scheduler_->Abort(1);
  Tell({0});
  EXPECT_EQ(Found(Tokens(20, 1000), 1.0f).first, 0);
}

class FailedDrawTest : public InFlightTest {};

TEST_F(FailedDrawTest, ThePagesAreThrownAway) {
  Ask(1, Tokens(14, 0), 10);
  Step();
  Queue();
  Queue();  // with a token that was never drawn
  const StepResult result = Tell({-1})[0];
  EXPECT_TRUE(result.finished && result.reason == FinishReason::kError);
  EXPECT_EQ(result.token, -1);
  EXPECT_EQ(Held(), 0);
  EXPECT_EQ(scheduler_->Stats().pages_cached, 0);
  EXPECT_TRUE(Tell({-1}).empty());
  EXPECT_FALSE(scheduler_->HasWork());
}

// Whatever is wrong may have been there before the first token was drawn.
TEST_F(FailedDrawTest, NorDoTheStatesStayThatItLeftAtEarlierBoundaries) {
  for (const bool fails : {false, true}) {
    Make({.max_num_batched_tokens = 64});
    Ask(1, Tokens(18, 0), 40, 0.38f, {kStop});
    while (Step().sequences[0].num_computed < 50) {
    }
    Queue();
    Tell({fails ? -1 : kStop});
    // After the prompt, up to two tokens behind its last boundary.
    EXPECT_EQ(Found(Tokens(18, 0)), fails ? std::pair(0, 0) : std::pair(18, 16));
  }
}

}  // namespace
}  // namespace tangram
