#include <algorithm>
#include <queue>

#include "ops/cuda/attention/prefill.h"
#include "ops/cuda/attention/prefill_strips.h"

namespace tangram::ops::cuda {
namespace {

// The least that is worth a part of its own.
constexpr int kMinBlocks = 4;
// Tiles are cut into at most so many items for each thread block.
constexpr int kMaxItemsPerBlock = 3;

// A head's tiles, the longest first.
std::vector<PrefillItem> MakeTiles(const PrefillShape& shape, const PrefillSequence& sequence,
                                   int head, PrefillPlan& plan) {
  const int tile_tokens = kPrefillTileRows / (shape.num_q_heads / shape.num_kv_heads);
  const int row = shape.head_row[head];
  PrefillItem item{};
  item.kv_head = head;
  item.column = shape.head_column[head];
  item.expanded = static_cast<int>(plan.num_pages);
  item.page_table =
      (static_cast<int64_t>(sequence.slot) * shape.num_rows + row) * shape.max_pages_per_row;
  std::vector<PrefillItem> tiles;
  tiles.reserve(sequence.num_tokens / tile_tokens + 1);
  for (int token = 0; token < sequence.num_tokens; token += tile_tokens) {
    item.first_token = sequence.first_token + token;
    item.num_tokens = std::min(tile_tokens, sequence.num_tokens - token);
    item.num_keys = sequence.row_history[row] + token + 1;
    item.num_blocks = (item.num_keys + item.num_tokens - 2) / kPrefillBlockKeys + 1;
    tiles.push_back(item);
  }
  std::reverse(tiles.begin(), tiles.end());
  const int num_keys = sequence.row_history[row] + sequence.num_tokens;
  plan.rows.push_back({.column = item.column,
                       .num_keys = num_keys,
                       .expanded = item.expanded,
                       .page_table = item.page_table});
  plan.num_pages += (num_keys + kPageTokens - 1) / kPageTokens;
  return tiles;
}

// Items, and the thread block that each goes to.
struct Turns {
  std::vector<PrefillItem> items;
  std::vector<int> block;
  int64_t most = 0;  // work of the busiest block
};

// Each item in turn to the block with the least to do. The order is that of heads and key ranges,
// so that blocks that run at the same time read the same keys and find them in the L2 cache: with
// long histories this matters more than an even finish.
Turns TakeTurns(std::vector<PrefillItem> items, int num_blocks, int item_cost) {
  Turns turns;
  turns.block.reserve(items.size());
  using Load = std::pair<int64_t, int>;  // work, block
  std::vector<Load> all;
  for (int b = 0; b < num_blocks; ++b) all.push_back({0, b});
  std::priority_queue<Load, std::vector<Load>, std::greater<>> loads({}, std::move(all));
  for (const PrefillItem& item : items) {
    auto [work, b] = loads.top();
    loads.pop();
    turns.block.push_back(b);
    work += item.num_blocks + item_cost;
    turns.most = std::max(turns.most, work);
    loads.push({work, b});
  }
  turns.items = std::move(items);
  return turns;
}

PrefillDeal MakeDeal(const Turns& turns, int num_blocks) {
  PrefillDeal deal;
  deal.blocks.resize(num_blocks);
  deal.most = turns.most;
  for (size_t i = 0; i < turns.items.size(); ++i) {
    deal.blocks[turns.block[i]].push_back(turns.items[i]);
  }
  return deal;
}

// Parts of at most about `length` blocks of every tile, those over the same keys of a head one
// after another.
std::vector<PrefillItem> CutTiles(const std::vector<PrefillItem>& tiles, int length) {
  std::vector<PrefillItem> parts;
  parts.reserve(2 * tiles.size());
  for (size_t i = 0; i < tiles.size();) {
    size_t end = i;
    while (end < tiles.size() && tiles[end].expanded == tiles[i].expanded) ++end;  // one head
    for (int first = 0; first < tiles[i].num_blocks; first += length) {
      for (size_t t = i; t < end; ++t) {
        PrefillItem part = tiles[t];
        const int left = tiles[t].num_blocks - first;
        if (left <= 0 || (first > 0 && left < kMinBlocks)) continue;  // the part before has it
        part.first_block = first;
        part.num_blocks = left < length + kMinBlocks ? left : length;
        parts.push_back(part);
      }
    }
    i = end;
  }
  return parts;
}

// The most even deal of the heads' tiles, head after head in `tiles`.
PrefillDeal EvenDeal(const std::vector<std::vector<PrefillItem>>& heads,
                     const std::vector<PrefillItem>& tiles, int num_blocks) {
  const size_t most_items = size_t(kMaxItemsPerBlock) * num_blocks;
  Turns turns = TakeTurns(tiles, num_blocks, kPrefillItemCost);
  const int longest = heads.empty() ? 0 : heads[0][0].num_blocks;
  for (int parts = 2; longest / parts >= kMinBlocks && parts * tiles.size() <= most_items;
       ++parts) {
    Turns other = TakeTurns(CutTiles(tiles, (longest + parts - 1) / parts), num_blocks,
                            kPrefillItemCost + kPrefillPartCost);
    other.most += kPrefillCutCost;
    if (other.most < turns.most) turns = std::move(other);
  }
  const bool alike = std::all_of(heads.begin(), heads.end(), [&](const auto& head) {
    return head.size() == heads[0].size() && head.size() <= size_t(num_blocks);
  });
  if (alike && !heads.empty() && 2 * tiles.size() <= most_items) {
    auto strips = DealStrips(heads, num_blocks, turns.most - kPrefillCutCost);
    if (strips) return *std::move(strips);
  }
  return MakeDeal(turns, num_blocks);
}

// Numbers the parts of each cut tile, and says how to merge them.
void NumberParts(size_t num_tiles, PrefillPlan& plan) {
  struct Parts {
    int count = 0, first_item = 0, next_slot = 0;
  };
  std::vector<Parts> tiles(num_tiles);
  for (size_t i = 0; i < plan.items.size(); ++i) {
    Parts& parts = tiles[plan.items[i].tile];
    if (parts.count++ == 0) parts.first_item = static_cast<int>(i);
  }
  for (Parts& parts : tiles) {
    if (parts.count < 2) continue;
    plan.merges.push_back({parts.first_item, plan.num_slots, parts.count});
    parts.next_slot = plan.num_slots;
    plan.num_slots += parts.count;
  }
  for (PrefillItem& item : plan.items) {
    Parts& parts = tiles[item.tile];
    item.slot = parts.count > 1 ? parts.next_slot++ : -1;
  }
}

}  // namespace

PrefillPlan PlanPrefill(const PrefillShape& shape, std::span<const PrefillSequence> sequences,
                        int num_blocks, bool invariant) {
  PrefillPlan plan;
  std::vector<std::vector<PrefillItem>> heads;
  for (const PrefillSequence& sequence : sequences) {
    for (int head = 0; head < shape.num_kv_heads && sequence.num_tokens > 0; ++head) {
      heads.push_back(MakeTiles(shape, sequence, head, plan));
    }
  }
  // The longest head first, so that what comes last is short.
  std::stable_sort(heads.begin(), heads.end(),
                   [](const auto& a, const auto& b) { return a[0].num_blocks > b[0].num_blocks; });
  std::vector<PrefillItem> tiles;
  for (auto& head : heads) {
    for (PrefillItem& tile : head) {
      tile.tile = static_cast<int>(tiles.size());
      tiles.push_back(tile);
    }
  }
  const PrefillDeal deal =
      invariant ? MakeDeal(TakeTurns(tiles, num_blocks, kPrefillItemCost), num_blocks)
                : EvenDeal(heads, tiles, num_blocks);
  plan.ranges = {0};
  for (const std::vector<PrefillItem>& own : deal.blocks) {
    plan.items.insert(plan.items.end(), own.begin(), own.end());
    plan.ranges.push_back(static_cast<int>(plan.items.size()));
  }
  NumberParts(tiles.size(), plan);
  return plan;
}

size_t PrefillScratchBytes(const PrefillPlan& plan, int head_dim) {
  return sizeof(float) * plan.num_slots * kPrefillTileRows * (head_dim + 2);
}

}  // namespace tangram::ops::cuda
