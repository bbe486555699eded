#include "paging/retention_table.h"

#include <gtest/gtest.h>

namespace tangram {
namespace {

TEST(RetentionTable, FullKeepsEverything) {
  const RetentionTable table = RetentionTable::Full(3, 64);
  EXPECT_EQ(table.Length(2, 1000), 1000);
  EXPECT_EQ(table.Pages(0, 16), 0);
  EXPECT_EQ(table.Pages(1000, 16), 3 * 63);
  EXPECT_EQ(table.PeakPages(0, 1000, 16), 3 * 63);
}

TEST(RetentionTable, LengthFollowsThePositionAlone) {
  const RetentionTable table(2, 64, 50, {16, 64, 48, 96});
  EXPECT_EQ(table.Length(0, 0), 0);
  EXPECT_EQ(table.Length(0, 64), 64);  // whole until token 64 is processed
  EXPECT_EQ(table.Length(0, 65), 17);
  EXPECT_EQ(table.Length(1, 65), 65);
  EXPECT_EQ(table.Length(0, 128), 80);
  EXPECT_EQ(table.Length(0, 129), 49);
  EXPECT_EQ(table.LongestLength(64), 64);
  EXPECT_EQ(table.LongestLength(65), 65);
  EXPECT_EQ(table.LongestLength(130), 98);
  EXPECT_EQ(table.Pages(65, 16), 2 + 5);
  EXPECT_EQ(table.Pages(128, 16), 5 + 8);
}

TEST(RetentionTable, AStepAcrossABoundaryHoldsTheWholeChunkBeforeIt) {
  const RetentionTable table(2, 64, 50, {16, 64, 48, 96});
  EXPECT_EQ(table.PeakLength(0, 0, 65), 64);  // compresses at 64, then appends one
  EXPECT_EQ(table.PeakLength(1, 0, 65), 65);
  EXPECT_EQ(table.PeakLength(0, 64, 66), 18);  // 64 was crossed before
  EXPECT_EQ(table.PeakLength(0, 0, 130), 80);  // retained(64) + 64 > retained(128) + 2
  EXPECT_EQ(table.PeakPages(0, 130, 16), 5 + 8);
}

TEST(RetentionTableDeathTest, RowsNeverShrinkAndGrowByAtMostAChunk) {
  EXPECT_DEATH(RetentionTable(1, 64, 50, {32, 16}), "from 32 to 16");
  EXPECT_DEATH(RetentionTable(1, 64, 50, {80}), "from 0 to 80");
}

}  // namespace
}  // namespace tangram
