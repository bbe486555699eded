#include <gtest/gtest.h>

#include "inspect/heat_map.h"
#include "inspect/memory.h"
#include "inspect/report.h"
#include "paging/budget.h"

namespace tangram::apps::inspect {
namespace {

TEST(InspectMemory, FollowsTheTable) {
  // Two rows, boundaries every 64, half of the tokens: retained 16 and 48, then 32 and 96.
  const RetentionTable table(2, 64, 50, {16, 48, 32, 96});
  const SequenceMemory m = MemoryAt(table, 72, 16);
  EXPECT_EQ(m.resident, 32 + 8);
  EXPECT_EQ(m.longest, 56);
  EXPECT_EQ(m.shortest, 24);
  EXPECT_EQ(m.pages, 2 + 4);
  EXPECT_EQ(m.page_rounding, 7.5) << "15 to 0 of the last page, all the same in both rows";
  EXPECT_EQ(m.chunk_mean, 32 + 32.5);  // 1 to 64 tokens above the retained
  EXPECT_EQ(m.between, m.chunk_mean - 0.5 * 96.5);
}

TEST(InspectMemory, FullTablesWasteNothingButRounding) {
  const SequenceMemory m = MemoryAt(RetentionTable::Full(3, 64), 100, 16);
  EXPECT_EQ(m.resident, 100);
  EXPECT_EQ(m.chunk_mean, 100);
  EXPECT_EQ(m.between, 0);
  EXPECT_EQ(m.page_rounding, 12);
}

HeatMap Small() {
  HeatMap map;
  map.title = "a < b & c";
  map.x_label = "layer";
  map.y_label = "head";
  map.x_names = {"0", "1", "2"};
  map.y_names = {"0", "1"};
  map.values = {0, 0.5, 1, 0.25, 0.75, 2};
  return map;
}

size_t Count(const std::string& text, const std::string& part) {
  size_t count = 0;
  for (size_t at = 0; (at = text.find(part, at)) != std::string::npos; ++at) ++count;
  return count;
}

TEST(HeatMap, HasACellForEachValueAndEscapesItsTexts) {
  const std::string svg = RenderSvg(Small());
  EXPECT_EQ(Count(svg, "<title>layer "), 6u);
  EXPECT_EQ(Count(svg, "<title>layer 2, head 1: 2</title>"), 1u);
  EXPECT_NE(svg.find("a &lt; b &amp; c"), std::string::npos);
  EXPECT_EQ(Count(svg, "<title>"), Count(svg, "</title>"));
  // The ends of the scale, beyond which colours do not change.
  EXPECT_NE(svg.find("#440154\"><title>layer 0, head 0"), std::string::npos);
  EXPECT_NE(svg.find("#fde725\"><title>layer 2, head 1"), std::string::npos);
}

TEST(HeatMap, WritesTextsIntoCells) {
  HeatMap map = Small();
  map.texts = {"p", "q", "r", "s", "t", "u"};
  EXPECT_NE(RenderSvg(map).find(">u</text>"), std::string::npos);
}

TEST(InspectReport, ShowsEveryLayerGroupAndContext) {
  Inspection in;
  in.name = "some model";
  in.profile.num_layers = 3;
  in.profile.num_kv_heads = 2;
  in.profile.num_samples = in.profile.sample_tokens = 1;
  ScorerProfile& gate = in.profile.scorers[Scorer::kGate];
  gate.demand = {3, 2, {0.5f}, {0.1f, 0.9f, 0.2f, 0.8f, 0.4f, 0.6f}};
  gate.stability = {0.97f};
  in.compression.ratio = 0.5f;
  in.head_dim = 64;
  in.groups = GroupHeads(gate.demand, 0.5f, BudgetLevel::kCrossLayer, 2);
  in.row_shares = RowDemand(gate.demand, *in.groups, 0.5f, BudgetLevel::kCrossLayer);
  in.contexts = {1024, 4096};
  in.concurrencies = {1, 10};
  in.table = BuildRetentionTable(in.compression, in.row_shares, 16, 4096 + 256);
  const std::string text = TextReport(in);
  EXPECT_NE(text.find("    0 |  10  90 |   50 ####################"), std::string::npos) << text;
  EXPECT_NE(text.find("0.1   1.1"), std::string::npos) << "the most demanding group comes first";
  EXPECT_NE(text.find("0.970"), std::string::npos);
  // Six heads of 64 in 16 bits: 1.5 KiB a token, 6 MiB for 4096 of them.
  EXPECT_NE(text.find("6.0"), std::string::npos);
  EXPECT_EQ(Count(text, "\n      4096"), 3u);
}

}  // namespace
}  // namespace tangram::apps::inspect
