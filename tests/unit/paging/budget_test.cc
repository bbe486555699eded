#include "paging/budget.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

namespace tangram {
namespace {

constexpr int kPage = 16;

int64_t SumAt(const RetentionTable& table, int boundary) {
  int64_t sum = 0;
  for (int group = 0; group < table.num_groups(); ++group) sum += table.Retained(group, boundary);
  return sum;
}

TEST(Budget, SumsAreExactAtEveryBoundary) {
  std::mt19937 random(1);
  for (int trial = 0; trial < 200; ++trial) {
    CompressionConfig config{.ratio = float(20 + random() % 79) / 100};
    config.chunk = kPage * int(8 + random() % 24);
    std::vector<double> demand(1 + random() % 70);
    for (double& d : demand) d = std::pow(double(random() % 1000) / 1000, 3);
    const int max_tokens = 4000;
    const RetentionTable table = BuildRetentionTable(config, demand, kPage, max_tokens);
    const int groups = table.num_groups(), floor = RetentionFloor(config, kPage);
    ASSERT_GE(table.max_tokens(), max_tokens);
    for (int b = config.chunk; b < max_tokens; b += config.chunk) {
      int64_t least = 0;
      for (int group = 0; group < groups; ++group) {
        const int now = table.Retained(group, b), before = table.Retained(group, b - config.chunk);
        ASSERT_EQ(now % kPage, 0);
        ASSERT_GE(now, std::min(std::max(before, floor), before + config.chunk));
        ASSERT_LE(now, before + config.chunk);
        least += std::max(before, std::min(floor, before + config.chunk));
      }
      const double share = double(std::lround(config.ratio * 100)) / 100 * b * groups;
      if (double(least) <= share) {
        ASSERT_LE(std::abs(double(SumAt(table, b)) - share), kPage * 0.5 + 1e-6)
            << "seed 1, trial " << trial;
      } else {
        ASSERT_EQ(SumAt(table, b), least);
      }
    }
  }
}

TEST(Budget, LengthsAreNearestToTheirTargets) {
  const CompressionConfig config{.ratio = 0.5f, .chunk = 256, .window = 8, .sinks = 4};
  const std::vector<double> demand = {0.9, 0.5, 0.35, 0.25};
  const RetentionTable table = BuildRetentionTable(config, demand, kPage, 8192);
  for (int b = 256; b < 8192; b += 256) {
    for (int group = 0; group < 4; ++group) {
      EXPECT_LT(std::abs(table.Retained(group, b) - demand[group] * b), kPage)
          << group << " at " << b;
    }
  }
}

TEST(Budget, EqualDemandGivesEqualLengthsWhereTheyDivide) {
  const CompressionConfig config{.ratio = 0.25f, .chunk = 256};
  const RetentionTable table =
      BuildRetentionTable(config, std::vector<double>(7, 0.3), kPage, 2048);
  for (int group = 0; group < 7; ++group) EXPECT_EQ(table.Retained(group, 1024), 256);
}

TEST(Budget, TheUnitOfDemandDoesNotMatter) {
  const CompressionConfig config{.ratio = 0.3f, .chunk = 256};
  std::vector<double> demand = {0.5, 0.1, 0.3, 0.25, 0.6}, doubled = demand;
  for (double& d : doubled) d *= 2;
  const RetentionTable a = BuildRetentionTable(config, demand, kPage, 4096);
  const RetentionTable b = BuildRetentionTable(config, doubled, kPage, 4096);
  for (int n = 256; n < 4096; n += 256) {
    for (int group = 0; group < 5; ++group) EXPECT_EQ(a.Retained(group, n), b.Retained(group, n));
  }
}

TEST(Budget, RowsThatAskForNothingKeepTheFloorAndFillUp) {
  CompressionConfig config{.ratio = 0.9f};
  const RetentionTable table =
      BuildRetentionTable(config, std::vector<double>{0, 1, 0}, kPage, 2048);
  EXPECT_EQ(table.Retained(1, 1024), 1024);
  EXPECT_LE(std::abs(SumAt(table, 1024) - 0.9 * 3 * 1024), kPage / 2);
  config.ratio = 0.25f;
  const RetentionTable low = BuildRetentionTable(config, std::vector<double>{0, 1, 0}, kPage, 2048);
  EXPECT_EQ(low.Retained(0, 1024), RetentionFloor(config, kPage));
}

TEST(Budget, AFloorAboveTheShareHidesTheRatio) {
  const CompressionConfig config{.ratio = 0.2f, .chunk = 256, .floor = 512};
  const RetentionTable table = BuildRetentionTable(config, std::vector<double>(3, 1), kPage, 4096);
  EXPECT_EQ(table.Retained(0, 256), 256);
  EXPECT_EQ(table.Retained(0, 512), 512);
  EXPECT_EQ(table.Retained(0, 2048), 512);
  EXPECT_EQ(SumAt(table, 3840), 3 * 768);
}

}  // namespace
}  // namespace tangram
