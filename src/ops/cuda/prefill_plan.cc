#include <algorithm>
#include <queue>

#include "ops/cuda/prefill.h"
#include "ops/cuda/prefill_strips.h"

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

// Each item in turn to the block with the least to do. The order is that of heads and key ranges,
// so that blocks that run at the same time read the same keys and find them in the L2 cache: with
// long histories this matters more than an even finish.
PrefillDeal DealOut(const std::vector<PrefillItem>& items, int num_blocks, int item_cost) {
  PrefillDeal deal;
  deal.blocks.resize(num_blocks);
  using Load = std::pair<int64_t, int>;  // work, block
  std::priority_queue<Load, std::vector<Load>, std::greater<>> loads;
  for (int b = 0; b < num_blocks; ++b) loads.push({0, b});
  for (const PrefillItem& item : items) {
    auto [work, b] = loads.top();
    loads.pop();
    deal.blocks[b].push_back(item);
    work += item.num_blocks + item_cost;
    deal.most = std::max(deal.most, work);
    loads.push({work, b});
  }
  return deal;
}

// Parts of at most about `length` blocks of every tile, those over the same keys of a head one
// after another.
std::vector<PrefillItem> CutTiles(const std::vector<PrefillItem>& tiles, int length) {
  std::vector<PrefillItem> parts;
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
  PrefillDeal deal = DealOut(tiles, num_blocks, kPrefillItemCost);
  const int longest = heads.empty() ? 0 : heads[0][0].num_blocks;
  for (int parts = 2; longest / parts >= kMinBlocks && parts * tiles.size() <= most_items;
       ++parts) {
    PrefillDeal other = DealOut(CutTiles(tiles, (longest + parts - 1) / parts), num_blocks,
                                kPrefillItemCost + kPrefillPartCost);
    other.most += kPrefillCutCost;
    if (other.most < deal.most) deal = std::move(other);
  }
  const bool alike = std::all_of(heads.begin(), heads.end(), [&](const auto& head) {
    return head.size() == heads[0].size() && head.size() <= size_t(num_blocks);
  });
  if (alike && !heads.empty() && 2 * tiles.size() <= most_items) {
    auto other = DealStrips(heads, num_blocks, deal.most - kPrefillCutCost);
    if (other) deal = *std::move(other);
  }
  return deal;
}

// Numbers the parts of each cut tile, and says how to merge them.
void NumberParts(size_t num_tiles, PrefillPlan& plan) {
  std::vector<std::vector<int>> parts(num_tiles);
  for (size_t i = 0; i < plan.items.size(); ++i) {
    parts[plan.items[i].tile].push_back(static_cast<int>(i));
  }
  for (const std::vector<int>& own : parts) {
    if (own.size() > 1) {
      plan.merges.push_back({own[0], plan.num_slots, static_cast<int>(own.size())});
    }
    for (int i : own) plan.items[i].slot = own.size() > 1 ? plan.num_slots++ : -1;
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
      invariant ? DealOut(tiles, num_blocks, kPrefillItemCost) : EvenDeal(heads, tiles, num_blocks);
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
