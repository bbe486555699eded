#include "compression/head_order.h"

#include <gtest/gtest.h>

#include <fstream>

namespace tangram {
namespace {

// Two layers of two heads; the second layer wants more.
HeadDemand Demand() { return {2, 2, {0.5f}, {0.1f, 0.2f, 0.8f, 0.9f}}; }

CompressionConfig At(BudgetLevel level) {
  CompressionConfig config;
  config.ratio = 0.5f;
  config.level = level;
  return config;
}

std::string File(const std::string& text) {
  std::string path = testing::TempDir() + "map.json";
  std::ofstream(path) << text;
  return path;
}

std::vector<int32_t> Rows(const HeadGroupMap& map) {
  std::vector<int32_t> rows;
  for (int layer = 0; layer < map.num_layers(); ++layer) {
    rows.insert(rows.end(), map.groups(layer).begin(), map.groups(layer).end());
  }
  return rows;
}

TEST(HeadOrder, AutoIdentityAndFiles) {
  const auto config = At(BudgetLevel::kCrossLayer);
  EXPECT_EQ(Rows(*MapHeads("auto", config, Demand(), 2)), (std::vector<int32_t>{1, 1, 0, 0}));
  EXPECT_EQ(Rows(*MapHeads("identity", config, Demand(), 2)), (std::vector<int32_t>{0, 0, 1, 1}));
  for (const char* text : {"[0, 2, 1, 3]", "[[0, 2], [1, 3]]"}) {
    const auto map = MapHeads(File(text), config, Demand(), 2);
    ASSERT_TRUE(map) << map.error().message;
    EXPECT_EQ(Rows(*map), (std::vector<int32_t>{0, 1, 0, 1}));
  }
}

TEST(HeadOrder, OtherFilesAreRefused) {
  for (const char* text : {"", "{}", "[0, 1, 2]", "[0, 1, 2, 2]", "[0, 1, 2, 4]", "[0, 1, 2, -3]",
                           "[0, 1, 2, 1.5]", "[[[0, 1]], [2, 3]]", "[0, 1, 2, 99999999999999]"}) {
    const auto map = MapHeads(File(text), At(BudgetLevel::kCrossLayer), Demand(), 2);
    ASSERT_FALSE(map) << text;
    EXPECT_EQ(map.error().kind, ErrorKind::kInvalidArgument);
    EXPECT_EQ(map.error().param, "head_group_cluster_map");
  }
  EXPECT_FALSE(MapHeads("/nowhere", At(BudgetLevel::kCrossLayer), Demand(), 2));
  EXPECT_FALSE(MapHeads(File("[0, 2, 1, 3]"), At(BudgetLevel::kPerLayer), Demand(), 2))
      << "groups of several layers";
}

}  // namespace
}  // namespace tangram
