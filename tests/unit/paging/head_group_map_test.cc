#include "paging/head_group_map.h"

#include <gtest/gtest.h>

namespace tangram {
namespace {

TEST(HeadGroupMap, NaturalOrderCutsRunsOfHeads) {
  const HeadGroupMap map = HeadGroupMap::Natural(3, 2, 3);
  EXPECT_EQ(map.num_groups(), 2);
  EXPECT_EQ(map.groups(0)[0], 0);
  EXPECT_EQ(map.groups(1)[0], 0);
  EXPECT_EQ(map.columns(1)[0], 2);
  EXPECT_EQ(map.groups(1)[1], 1);  // a group spans layers
  EXPECT_EQ(map.columns(2)[1], 2);
}

TEST(HeadGroupMap, FollowsTheOrder) {
  const HeadGroupMap map(2, 2, 2, std::vector<int32_t>{3, 0, 2, 1});
  EXPECT_EQ(map.groups(1)[1], 0);
  EXPECT_EQ(map.columns(1)[1], 0);
  EXPECT_EQ(map.groups(0)[0], 0);
  EXPECT_EQ(map.columns(0)[0], 1);
  EXPECT_EQ(map.groups(0)[1], 1);
  EXPECT_EQ(map.columns(0)[1], 1);
}

TEST(HeadGroupMap, ValidGroupSizeIsADivisor) {
  EXPECT_EQ(HeadGroupMap::ValidGroupSize(90, 4), 3);
  EXPECT_EQ(HeadGroupMap::ValidGroupSize(90, 6), 6);
  EXPECT_EQ(HeadGroupMap::ValidGroupSize(7, 4), 1);
  EXPECT_EQ(HeadGroupMap::ValidGroupSize(2, 4), 2);
}

TEST(HeadGroupMapDeathTest, RefusesAHeadTwice) {
  EXPECT_DEATH(HeadGroupMap(1, 2, 1, std::vector<int32_t>{1, 1}), "head 1 at 1");
}

}  // namespace
}  // namespace tangram
