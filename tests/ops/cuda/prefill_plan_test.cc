#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <map>
#include <numeric>
#include <random>

#include "ops/cuda/attention/prefill.h"

// PlanPrefill, which needs no GPU.

namespace tangram::ops::cuda {
namespace {

// Every block of keys of every tile once, in parts of two blocks or more; slots used once; no
// thread block with more than the mean and an item.
void CheckPlan(const PrefillShape& shape, const std::vector<PrefillSequence>& sequences, int blocks,
               bool invariant) {
  const PrefillPlan plan = PlanPrefill(shape, sequences, blocks, invariant);
  ASSERT_EQ(int(plan.ranges.size()), blocks + 1);
  EXPECT_EQ(plan.ranges.front(), 0);
  EXPECT_EQ(plan.ranges.back(), int(plan.items.size()));
  // By head and first token: first block, number of blocks, slot.
  std::map<std::pair<int, int>, std::vector<std::array<int, 3>>> parts;
  int64_t total = 0, most = 0, longest = 0;
  for (int b = 0; b < blocks; ++b) {
    ASSERT_LE(plan.ranges[b], plan.ranges[b + 1]);
    int64_t work = 0;
    for (int i = plan.ranges[b]; i < plan.ranges[b + 1]; ++i) {
      const PrefillItem& item = plan.items[i];
      parts[{item.kv_head, item.first_token}].push_back(
          {item.first_block, item.num_blocks, item.slot});
      work += item.num_blocks + 2;  // and what any item costs
      longest = std::max<int64_t>(longest, item.num_blocks);
    }
    total += work, most = std::max(most, work);
  }
  EXPECT_LE(most, total / blocks + longest + 3);
  std::vector<int> slots, merged;
  size_t tiles = 0;
  for (const PrefillSequence& s : sequences) {
    const int tile = kPrefillTileRows / (shape.num_q_heads / shape.num_kv_heads);
    for (int h = 0; h < shape.num_kv_heads; ++h) {
      for (int t = 0; t < s.num_tokens; t += tile, ++tiles) {
        auto& own = parts[{h, s.first_token + t}];
        std::sort(own.begin(), own.end());
        int next = 0;
        for (const auto& [first, count, slot] : own) {
          EXPECT_EQ(first, next);
          EXPECT_GE(count, own.size() > 1 ? 2 : 1);
          EXPECT_EQ(slot >= 0, own.size() > 1);
          if (slot >= 0) slots.push_back(slot);
          next += count;
        }
        const int keys = s.row_history[shape.head_row[h]] + std::min(t + tile, s.num_tokens);
        EXPECT_EQ(next, (keys + 127) / 128);
      }
    }
  }
  EXPECT_EQ(parts.size(), tiles);
  for (const PrefillMerge& m : plan.merges) {
    EXPECT_GE(m.num_slots, 2);
    for (int i = 0; i < m.num_slots; ++i) merged.push_back(m.first_slot + i);
  }
  std::sort(slots.begin(), slots.end());
  EXPECT_EQ(slots, merged);
  EXPECT_EQ(int(slots.size()), plan.num_slots);
  EXPECT_TRUE(!invariant || slots.empty());
}

TEST(PlanPrefill, CutsAFewLongTilesForAllBlocks) {
  const std::vector<int32_t> rows = {0, 1, 2, 3, 4, 5, 6, 7}, columns(8, 0), history(8, 8192);
  const PrefillShape shape{32, 8, rows.data(), columns.data(), 8, 1000};
  const PrefillPlan plan = PlanPrefill(shape, {{{0, 0, 256, history.data()}}}, 132, false);
  EXPECT_EQ(plan.items.size(), 128u);  // 64 tiles of 65 or 66 blocks, in halves
  for (const PrefillItem& item : plan.items) EXPECT_LE(item.num_blocks, 33);
  EXPECT_EQ(plan.merges.size(), 64u);
}

// Heads of unequal lengths take the busiest thread block about as long as equal ones.
void ExpectRaggedLikeEqual(int group, int heads, int chunk, int mean) {
  std::vector<int32_t> rows(heads), columns(heads, 0), uniform(heads, mean), ragged;
  std::iota(rows.begin(), rows.end(), 0);
  for (int h = 0; h < heads; ++h) {
    ragged.push_back(static_cast<int>(mean * (0.3 + 1.4 * h / (heads - 1))));
  }
  const PrefillShape shape{heads * group, heads, rows.data(), columns.data(), heads, 4000};
  const auto most = [&](const std::vector<int32_t>& history) {
    const PrefillPlan plan = PlanPrefill(shape, {{{0, 0, chunk, history.data()}}}, 132, false);
    int busiest = 0;
    for (int b = 0; b < 132; ++b) {
      int work = 0;
      for (int i = plan.ranges[b]; i < plan.ranges[b + 1]; ++i) {
        work += plan.items[i].num_blocks + 2 + (plan.items[i].slot >= 0);
      }
      busiest = std::max(busiest, work);
    }
    return busiest;
  };
  EXPECT_LE(most(ragged), 1.03 * most(uniform))
      << group << " x " << heads << " heads, " << chunk << " tokens behind " << mean;
}

TEST(PlanPrefill, DealsRaggedHeadsLikeEqualOnes) {
  for (const int chunk : {256, 512}) {
    for (const int mean : {8192, 32768}) {
      ExpectRaggedLikeEqual(4, 8, chunk, mean);
      ExpectRaggedLikeEqual(7, 4, chunk, mean);
    }
  }
}

TEST(PlanPrefill, DealsEveryBlockOfKeysOnceAndEvenly) {
  std::mt19937 random(5);
  for (int i = 0; i < 2000; ++i) {
    const int heads = 1 << random() % 4, g = 1 + random() % 16;
    std::vector<int32_t> row(heads), column(heads, 0);
    std::iota(row.begin(), row.end(), 0);
    std::vector<std::vector<int32_t>> history(1 + random() % 4, std::vector<int32_t>(heads));
    std::vector<PrefillSequence> sequences;
    for (int s = 0, first = 0; s < int(history.size()); first += sequences[s++].num_tokens) {
      for (int& h : history[s]) h = random() % 3 == 0 ? 0 : random() % 9000;
      sequences.push_back({s, first, int(1 + random() % 700), history[s].data()});
    }
    const PrefillShape shape{heads * g, heads, row.data(), column.data(), heads, 1000};
    SCOPED_TRACE(i);
    CheckPlan(shape, sequences, 1 + random() % 140, random() % 2 == 0);
    if (HasFailure()) break;
  }
}

}  // namespace
}  // namespace tangram::ops::cuda
