#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <set>
#include <vector>

#include "ops/cuda/attention/decode_plan.h"
#include "ops/cuda/device_array.h"
#include "ops/cuda/row_length.cuh"

namespace tangram {
namespace {

using namespace ops::cuda;

constexpr int kLayers = 100, kRows = 48, kBoundaries = 4, kTables = 2, kChunk = 1024;
constexpr int kMaxTokens = 512, kMaxHeads = 8, kMaxRanges = 200;

// One random composition of a batch, and the plans of all its layers as the device made them.
struct Composition {
  int size, heads, ranges;
  SplitMode mode;
  PlanCosts costs;
  std::vector<int32_t> slot, num_tokens, table, retained, head_row, head_column;
  std::vector<PlanEntry> entries;
  std::vector<PlanRange> range_starts;
  std::vector<PlanSplit> splits;
  std::vector<int32_t> num_splits;

  int entries_per_layer() const { return size * heads; }
  int unit_pages() const { return mode == SplitMode::kBatchInvariant ? kInvariantUnitPages : 1; }
};

// Of `size` tokens and `heads` heads, if they are given.
Composition Draw(std::mt19937& random, int size = 0, int heads = 0) {
  Composition c;
  const int sizes[] = {1, 2, 7, 16, 64};
  c.size = size > 0 ? size : random() % 50 == 0 ? kMaxTokens : sizes[random() % 5];
  c.heads = heads > 0 ? heads : 1 << random() % 4;
  const int ranges[] = {1, 7, 132, kMaxRanges};
  c.ranges = ranges[random() % 4];
  c.mode = random() % 3 == 0 ? SplitMode::kBatchInvariant : SplitMode::kEqualRanges;
  c.costs = {static_cast<int>(random() % 100), 16 + static_cast<int>(random() % 64)};
  const int longest = 1 << random() % 12;  // up to 2 * kChunk
  for (int t = 0; t < c.size; ++t) {
    c.slot.push_back(static_cast<int>(random() % 1000));
    c.num_tokens.push_back(random() % 5 == 0 ? 0 : 1 + static_cast<int>(random() % longest));
    c.table.push_back(static_cast<int>(random() % kTables));
  }
  for (int i = 0; i < kTables * kBoundaries; ++i) {
    for (int row = 0; row < kRows; ++row) {
      c.retained.push_back(i % kBoundaries * static_cast<int>(random() % 65) * kPageTokens);
    }
  }
  for (int i = 0; i < kLayers * c.heads; ++i) {
    c.head_row.push_back(static_cast<int>(random() % kRows));
    c.head_column.push_back(static_cast<int>(random() % 4));
  }
  return c;
}

void PlanOnDevice(Composition& c) {
  const int entries = c.entries_per_layer();
  const int max_splits = MaxSplits(c.mode, entries, c.ranges);
  DeviceArray<int32_t> slot(c.slot), num_tokens(c.num_tokens), table(c.table), retained(c.retained),
      head_row(c.head_row), head_column(c.head_column), num_splits(kLayers);
  DeviceArray<PlanEntry> device_entries(size_t{kLayers} * (entries + 1));
  DeviceArray<PlanRange> device_ranges(size_t{kLayers} * (c.ranges + 1));
  DeviceArray<PlanSplit> device_splits(size_t{kLayers} * max_splits);
  device_entries.FillBytes(0xff);
  device_ranges.FillBytes(0xff);
  device_splits.FillBytes(0xff);
  RunDecodePlan({{c.size, slot.data(), num_tokens.data(), table.data()},
                 {retained.data(), kBoundaries, kRows, kChunk},
                 head_row.data(),
                 head_column.data(),
                 c.heads,
                 c.mode,
                 c.costs,
                 {device_entries.data(), device_ranges.data(), device_splits.data(),
                  num_splits.data(), kLayers, entries, c.ranges, max_splits}},
                nullptr);
  c.entries = device_entries.Download();
  c.range_starts = device_ranges.Download();
  c.splits = device_splits.Download();
  c.num_splits = num_splits.Download();
}

// The oracle: what each entry and range of a layer must be, and that segments and splits make each
// page once, with slots of their own.
class LayerChecker {
 public:
  LayerChecker(const Composition& c, int layer)
      : c_(c),
        layer_(layer),
        entries_(&c.entries[size_t{1} * layer * (c.entries_per_layer() + 1)]),
        ranges_(&c.range_starts[size_t{1} * layer * (c.ranges + 1)]) {}

  void CheckEntries() const {
    const RetainedTables tables = {c_.retained.data(), kBoundaries, kRows, kChunk};
    int units = 0;
    for (int entry = 0; entry < c_.entries_per_layer(); ++entry) {
      const int t = entry / c_.heads, place = layer_ * c_.heads + entry % c_.heads;
      const int tokens = RowLength(tables, c_.table[t], c_.head_row[place], c_.num_tokens[t]);
      const PlanEntry& e = entries_[entry];
      ASSERT_EQ(e.num_tokens, tokens);
      ASSERT_EQ(e.first_unit, units);
      ASSERT_EQ(e.table_row, c_.slot[t] * kRows + c_.head_row[place]);
      ASSERT_EQ(e.column, c_.head_column[place]);
      units += Units(entry);
    }
    ASSERT_EQ(entries_[c_.entries_per_layer()].first_unit, units);
  }

  // Range w of the `used` ones that are worth a block begins at the last unit before which no more
  // than w/used of the cost is spent. Before an entry's first unit that is the cost of the entries
  // before; before a later unit also the entry's own and that of its units before.
  void CheckRanges() const {
    const int total = entries_[c_.entries_per_layer()].first_unit;
    const int unit_cost = invariant() ? 1 : 4, entry_cost = invariant() ? 0 : c_.costs.per_entry;
    const auto cost_of = [&](int entry) {
      return Units(entry) > 0 ? unit_cost * Units(entry) + entry_cost : 0;
    };
    int64_t cost = 0;
    for (int entry = 0; entry < c_.entries_per_layer(); ++entry) cost += cost_of(entry);
    const int64_t min_range = invariant() ? 1 : c_.costs.min_range;
    const int64_t used = std::min<int64_t>(c_.ranges, (cost + min_range - 1) / min_range);
    int entry = 0;
    int64_t before = 0;                // cost of the entries before `entry`
    std::vector<int64_t> spent(used);  // before each range
    for (int w = 0; w <= c_.ranges; ++w) {
      if (w >= used) {
        ASSERT_EQ(ranges_[w].unit, total);
        continue;
      }
      const int64_t target = cost * w / used;
      for (; before + cost_of(entry) <= target; ++entry) before += cost_of(entry);
      const int64_t inside = std::max<int64_t>(0, (target - before - entry_cost) / unit_cost);
      ASSERT_EQ(ranges_[w].entry, entry) << "range " << w;
      ASSERT_EQ(ranges_[w].unit, entries_[entry].first_unit + inside) << "range " << w;
      spent[w] = before + (inside > 0 ? entry_cost + inside * unit_cost : 0);
    }
    // The balance that this is for: a range costs one share, and what cannot be cut.
    for (int64_t w = 0; w < used; ++w) {
      const int64_t next = w + 1 < used ? spent[w + 1] : cost;
      ASSERT_LE(next - spent[w], (cost + used - 1) / used + unit_cost + entry_cost)
          << "range " << w;
    }
  }

  void CheckSegments() const {
    std::vector<std::vector<int>> slots(
        c_.entries_per_layer());  // of each entry's segments; -1: whole
    std::set<int> all_slots;
    const int total = entries_[c_.entries_per_layer()].first_unit;
    int entry = 0;
    for (int w = 0; w < c_.ranges; ++w) {
      for (int unit = ranges_[w].unit; unit < ranges_[w + 1].unit;) {
        while (entries_[entry + 1].first_unit <= unit) ++entry;
        const int next = entries_[entry + 1].first_unit;
        const int stop = invariant() ? unit + 1 : std::min(next, ranges_[w + 1].unit);
        const bool whole = unit == entries_[entry].first_unit && stop == next;
        const int slot = invariant() ? unit : 2 * w + (unit != ranges_[w].unit);
        slots[entry].push_back(whole ? -1 : slot);
        if (!whole) {
          ASSERT_LT(slot, MaxPartials(c_.mode, c_.ranges, total)) << "range " << w;
          ASSERT_TRUE(all_slots.insert(slot).second) << "slot " << slot << " twice";
        }
        unit = stop;
      }
    }
    const int max_splits = MaxSplits(c_.mode, c_.entries_per_layer(), c_.ranges);
    int expected = 0;
    for (const auto& s : slots) expected += s.size() > 1;
    ASSERT_EQ(c_.num_splits[layer_], expected);
    ASSERT_LE(expected, invariant() ? c_.entries_per_layer() : c_.ranges - 1);
    const int step = invariant() ? 1 : 2;
    for (int i = 0; i < expected; ++i) {
      const PlanSplit& split = c_.splits[size_t{1} * layer_ * max_splits + i];
      const auto& mine = slots[split.entry];
      ASSERT_EQ(split.num_slots, static_cast<int>(mine.size()));
      ASSERT_EQ(split.first_slot, mine[0]);
      for (size_t k = 1; k < mine.size(); ++k) {
        ASSERT_EQ(split.next_slot + static_cast<int>(k - 1) * step, mine[k]);
      }
      slots[split.entry].clear();  // each once
    }
  }

 private:
  int Units(int entry) const {
    const int pages = (entries_[entry].num_tokens + kPageTokens - 1) / kPageTokens;
    return (pages + c_.unit_pages() - 1) / c_.unit_pages();
  }
  bool invariant() const { return c_.mode == SplitMode::kBatchInvariant; }

  const Composition& c_;
  int layer_;
  const PlanEntry* entries_;
  const PlanRange* ranges_;
};

void PlanAndCheck(Composition c) {
  PlanOnDevice(c);
  for (int layer = 0; layer < kLayers; ++layer) {
    const LayerChecker checker(c, layer);
    checker.CheckEntries();
    checker.CheckRanges();
    checker.CheckSegments();
    ASSERT_FALSE(testing::Test::HasFatalFailure())
        << "layer " << layer << ": " << c.size << " tokens, " << c.heads << " heads, " << c.ranges
        << " ranges";
  }
}

// A thousand batches, each with a hundred ways to deal heads to rows (the layers).
TEST(DecodePlan, RandomBatchesAndHeadMaps) {
  std::mt19937 random(1);
  for (int i = 0; i < 1000; ++i) {
    PlanAndCheck(Draw(random));
    ASSERT_FALSE(HasFatalFailure()) << "composition " << i;
  }
}

// As many entries as a layer may have: 16 a thread.
TEST(DecodePlan, ManyEntries) {
  std::mt19937 random(2);
  for (int size : {2048, 700}) PlanAndCheck(Draw(random, size, 8));
}

}  // namespace
}  // namespace tangram
