// Random traces on the symbolic model. Each case prints its seed as its name.
#include <gtest/gtest.h>

#include <cstdlib>
#include <iostream>

#include "random_trace.h"

namespace tangram {
namespace {

constexpr int kSeeds = 50;
constexpr int kStepsPerSeed = 20000;  // together 10^6

// Fewer under sanitizers, which scripts/test asks for.
int StepsPerSeed() {
  const char* fewer = std::getenv("TANGRAM_PROPERTY_STEPS");
  return fewer != nullptr ? std::atoi(fewer) : kStepsPerSeed;
}

RandomTrace::Depth DepthOf(int seed) {
  if (seed % 5 == 0) return RandomTrace::Depth::kSwitching;
  return seed % 2 == 0 ? RandomTrace::Depth::kTwo : RandomTrace::Depth::kOne;
}

class SchedulerProperty : public testing::TestWithParam<int> {
 protected:
  static TraceTotals sum_;
  static void TearDownTestSuite() {
    std::cout << sum_.steps << " steps: " << sum_.finished << " finished, " << sum_.aborts
              << " aborted (" << sum_.pending_aborts << " in flight), " << sum_.failed
              << " failed, " << sum_.preemptions << " preempted (" << sum_.pending_preemptions
              << " in flight), " << sum_.hits << " tokens hit, " << sum_.compressed_hits
              << " compressed states hit, " << sum_.bare_hits << " without a tail, " << sum_.copies
              << " pages copied, " << sum_.chunks << " chunks told, " << sum_.wasted_rows
              << " rows wasted, " << sum_.idle << " steps idle\n";
    if (sum_.steps < int64_t{kSeeds} * kStepsPerSeed) return;  // only some seeds were asked for
    EXPECT_GT(sum_.finished, sum_.steps / 50);
    EXPECT_GT(sum_.aborts, sum_.steps / 100);
    EXPECT_GT(sum_.pending_aborts, sum_.steps / 1000);
    EXPECT_GT(sum_.failed, sum_.steps / 1000);
    EXPECT_GT(sum_.preemptions, uint64_t(sum_.steps) / 200);
    EXPECT_GT(sum_.pending_preemptions, sum_.steps / 2000);
    EXPECT_GT(sum_.hits, uint64_t(sum_.steps) / 10);
    EXPECT_GT(sum_.copies, sum_.steps / 100);
    EXPECT_GT(sum_.compressed_hits, sum_.steps / 200);
    EXPECT_GT(sum_.bare_hits, sum_.steps / 2000);
    EXPECT_GT(sum_.chunks, sum_.steps / 200);
    EXPECT_GT(sum_.wasted_rows, sum_.steps / 1000);
    EXPECT_GT(sum_.idle, sum_.steps / 1000);
  }
};
TraceTotals SchedulerProperty::sum_;

TEST_P(SchedulerProperty, HoldsOnRandomTraces) {
  RandomTrace trace(GetParam(), DepthOf(GetParam()));
  for (int i = 0; i < StepsPerSeed() && !HasFailure(); ++i) trace.Step();
  if (!HasFailure()) trace.Drain();
  sum_.Add(trace.totals());
}

INSTANTIATE_TEST_SUITE_P(Seed, SchedulerProperty, testing::Range(1, kSeeds + 1));

}  // namespace
}  // namespace tangram
