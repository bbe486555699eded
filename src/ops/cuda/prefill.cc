#include "ops/cuda/prefill.h"

#include <algorithm>
#include <map>
#include <queue>

#include "base/check.h"
#include "ops/cuda/device.h"

namespace tangram::ops::cuda {
namespace {

// What an item costs besides its blocks of keys, in their time: loading queries, writing the
// result.
constexpr int kItemCost = 2;
// What cutting tiles costs: writing parts, a second kernel to add them.
constexpr int kCutCost = 6;
// The least that a part may have: one over fewer blocks could hide all its keys from some token.
constexpr int kFewestBlocks = 2;
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
  item.slot = -1;
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

// Which items each of `num_blocks` thread blocks takes.
struct Deal {
  std::vector<std::vector<int>> items;
  int64_t most = 0;  // work of the busiest block
};

// Each item in turn to the block with the least to do. The order is that of heads and key ranges,
// so that blocks that run at the same time read the same keys and find them in the L2 cache: with
// long histories this matters more than an even finish.
Deal DealOut(const std::vector<PrefillItem>& items, int num_blocks) {
  Deal deal;
  deal.items.resize(num_blocks);
  using Load = std::pair<int64_t, int>;  // work, block
  std::priority_queue<Load, std::vector<Load>, std::greater<>> loads;
  for (int b = 0; b < num_blocks; ++b) loads.push({0, b});
  for (int i = 0; i < static_cast<int>(items.size()); ++i) {
    auto [work, b] = loads.top();
    loads.pop();
    deal.items[b].push_back(i);
    work += items[i].num_blocks + kItemCost;
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

// Deals tiles to thread blocks in groups, a block of a group for each tile of a head: every group
// takes an equal share of the heads' keys laid end to end, and its blocks read the same keys side
// by side. So heads of unequal lengths are dealt out as evenly as equal ones.
Deal DealInStep(const std::vector<std::vector<PrefillItem>>& heads, int num_blocks,
                std::vector<PrefillItem>* items) {
  const int tiles = static_cast<int>(heads[0].size()), groups = num_blocks / tiles;
  int64_t total = kItemCost * (heads.size() + groups - 1);
  for (const auto& head : heads) total += head[0].num_blocks;
  Deal deal;
  deal.items.resize(num_blocks);
  std::vector<int64_t> work(groups, 0);
  int group = 0;
  int64_t done = 0;
  for (const auto& head : heads) {
    const int longest = head[0].num_blocks, shortest = head.back().num_blocks;
    for (int first = 0; first < longest;) {
      const int64_t share = first + (group + 1) * total / groups - done - kItemCost;
      int end = longest;
      if (group + 1 < groups && share < longest) {
        if (share - first < kFewestBlocks) {
          ++group;
          continue;
        }
        // Every tile's last part must see a few blocks: at a head's end the nearer cut is taken.
        const int latest = shortest - kFewestBlocks;
        if (share <= latest) {
          end = static_cast<int>(share);
        } else if (share - latest < longest - share && latest - first >= kFewestBlocks) {
          end = latest;
        }
      }
      for (int t = 0; t < tiles; ++t) {
        deal.items[group * tiles + t].push_back(static_cast<int>(items->size()));
        items->push_back(head[t]);
        items->back().first_block = first;
        items->back().num_blocks = std::min(end, head[t].num_blocks) - first;
      }
      done += end - first + kItemCost;
      work[group] += end - first + kItemCost;
      first = end;
    }
  }
  deal.most = *std::max_element(work.begin(), work.end());
  return deal;
}

// Numbers the parts of each cut tile, and says how to merge them.
void NumberParts(const std::vector<PrefillItem>& tiles, PrefillPlan& plan) {
  std::map<std::pair<int, int>, std::vector<int>> parts;  // by head and first token
  for (int i = 0; i < static_cast<int>(plan.items.size()); ++i) {
    parts[{plan.items[i].kv_head, plan.items[i].first_token}].push_back(i);
  }
  for (const PrefillItem& tile : tiles) {
    const std::vector<int>& own = parts[{tile.kv_head, tile.first_token}];
    if (own.size() == 1) continue;
    plan.merges.push_back({own[0], plan.num_slots, static_cast<int>(own.size())});
    for (int i : own) plan.items[i].slot = plan.num_slots++;
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
  for (const auto& head : heads) tiles.insert(tiles.end(), head.begin(), head.end());
  std::vector<PrefillItem> items = tiles;
  Deal deal = DealOut(items, num_blocks);
  const int longest = heads.empty() ? 0 : heads[0][0].num_blocks;
  for (int parts = 2; !invariant && longest / parts >= kMinBlocks &&
                      parts * tiles.size() <= size_t(kMaxItemsPerBlock) * num_blocks;
       ++parts) {
    std::vector<PrefillItem> cut = CutTiles(tiles, (longest + parts - 1) / parts);
    Deal other = DealOut(cut, num_blocks);
    other.most += kCutCost;
    if (other.most < deal.most) items = std::move(cut), deal = std::move(other);
  }
  const bool alike = std::all_of(heads.begin(), heads.end(), [&](const auto& head) {
    return head.size() == heads[0].size() && head.size() <= size_t(num_blocks);
  });
  if (!invariant && alike && !heads.empty()) {
    std::vector<PrefillItem> shares;
    Deal other = DealInStep(heads, num_blocks, &shares);
    if (shares.size() > tiles.size()) other.most += kCutCost;
    if (other.most < deal.most) items = std::move(shares), deal = std::move(other);
  }
  plan.ranges = {0};
  for (const std::vector<int>& own : deal.items) {
    for (int i : own) plan.items.push_back(items[i]);
    plan.ranges.push_back(static_cast<int>(plan.items.size()));
  }
  NumberParts(tiles, plan);
  return plan;
}

size_t PrefillScratchBytes(const PrefillPlan& plan, int head_dim) {
  return sizeof(float) * plan.num_slots * kPrefillTileRows * (head_dim + 2);
}

void RunPrefill(const PrefillArgs& args, cudaStream_t stream) {
  TANGRAM_CHECK(args.kv.head_dim == 64 || args.kv.head_dim == 128, "head_dim {}", args.kv.head_dim);
  if (CurrentDevice().compute_major == 9) return RunPrefillSm90(args, stream);
  RunPrefillSimple(args, stream);
}

}  // namespace tangram::ops::cuda
