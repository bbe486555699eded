#include "ops/cuda/prefill.h"

#include <algorithm>
#include <queue>

#include "base/check.h"
#include "ops/cuda/device.h"

namespace tangram::ops::cuda {
namespace {

// What a tile costs besides its blocks of keys, in their time: loading queries, writing the result.
constexpr int kTileCost = 2;
// The least that is worth a part of its own. (A part over fewer than two blocks could hide all its
// keys from some token.)
constexpr int kMinBlocks = 4;
// What cutting tiles costs, in the time of a block of keys: writing parts, a second kernel to add
// them.
constexpr int kCutCost = 6;

void AddTiles(const PrefillShape& shape, const PrefillSequence& sequence, int head,
              PrefillPlan& plan) {
  const int tile_tokens = kPrefillTileRows / (shape.num_q_heads / shape.num_kv_heads);
  const int row = shape.head_row[head];
  PrefillItem item{};
  item.kv_head = head;
  item.column = shape.head_column[head];
  item.expanded = static_cast<int>(plan.num_pages);
  item.page_table =
      (static_cast<int64_t>(sequence.slot) * shape.num_rows + row) * shape.max_pages_per_row;
  item.slot = -1;
  for (int token = 0; token < sequence.num_tokens; token += tile_tokens) {
    item.first_token = sequence.first_token + token;
    item.num_tokens = std::min(tile_tokens, sequence.num_tokens - token);
    item.num_keys = sequence.row_history[row] + token + 1;
    item.num_blocks = (item.num_keys + item.num_tokens - 2) / kPrefillBlockKeys + 1;
    plan.items.push_back(item);
  }
  const int num_keys = sequence.row_history[row] + sequence.num_tokens;
  plan.rows.push_back({.column = item.column,
                       .num_keys = num_keys,
                       .expanded = item.expanded,
                       .page_table = item.page_table});
  plan.num_pages += (num_keys + kPageTokens - 1) / kPageTokens;
}

// The longest tile first, each to the block with the least to do. Returns what the busiest block
// has more than the mean.
int64_t DealWhole(int num_blocks, PrefillPlan& plan) {
  std::stable_sort(
      plan.items.begin(), plan.items.end(),
      [](const PrefillItem& a, const PrefillItem& b) { return a.num_blocks > b.num_blocks; });
  using Load = std::pair<int64_t, int>;  // work, block
  std::priority_queue<Load, std::vector<Load>, std::greater<>> loads;
  for (int b = 0; b < num_blocks; ++b) loads.push({0, b});
  std::vector<std::vector<PrefillItem>> dealt(num_blocks);
  int64_t total = 0, most = 0;
  for (const PrefillItem& item : plan.items) {
    auto [work, b] = loads.top();
    loads.pop();
    dealt[b].push_back(item);
    work += item.num_blocks + kTileCost;
    total += item.num_blocks + kTileCost, most = std::max(most, work);
    loads.push({work, b});
  }
  plan.items.clear();
  plan.ranges = {0};
  for (const auto& items : dealt) {
    plan.items.insert(plan.items.end(), items.begin(), items.end());
    plan.ranges.push_back(static_cast<int>(plan.items.size()));
  }
  return most - total / num_blocks;
}

// All tiles in a row, cut into equal shares (stream-K).
void DealCut(int num_blocks, PrefillPlan& plan) {
  int64_t total = 0;
  for (const PrefillItem& item : plan.items) total += item.num_blocks + kTileCost;
  std::vector<PrefillItem> tiles;
  std::swap(tiles, plan.items);
  plan.ranges = {0};
  int64_t before = 0;  // work dealt so far
  const auto share_end = [&] {
    return total * static_cast<int64_t>(plan.ranges.size()) / num_blocks;
  };
  const auto next_share = [&] { plan.ranges.push_back(static_cast<int>(plan.items.size())); };
  for (const PrefillItem& tile : tiles) {
    const int first_slot = plan.num_slots;
    int done = 0, parts = 0;
    while (done < tile.num_blocks) {
      while (share_end() <= before && static_cast<int>(plan.ranges.size()) < num_blocks)
        next_share();
      int take = static_cast<int>(std::min<int64_t>(share_end() - before, tile.num_blocks - done));
      const int left = tile.num_blocks - done - take;
      if (left > 0 && left < kMinBlocks) take = tile.num_blocks - done;
      if (take < kMinBlocks) take = std::min(kMinBlocks, tile.num_blocks - done);
      if (tile.num_blocks - done - take < kMinBlocks) take = tile.num_blocks - done;
      PrefillItem part = tile;
      part.first_block = done, part.num_blocks = take;
      part.slot = plan.num_slots++;
      plan.items.push_back(part);
      done += take, before += take, ++parts;
    }
    before += kTileCost;
    if (parts > 1) {
      plan.merges.push_back({static_cast<int>(plan.items.size()) - 1, first_slot, parts});
    } else {
      plan.items.back().slot = -1;
      plan.num_slots = first_slot;
    }
  }
  while (static_cast<int>(plan.ranges.size()) <= num_blocks) next_share();
}

}  // namespace

PrefillPlan PlanPrefill(const PrefillShape& shape, std::span<const PrefillSequence> sequences,
                        int num_blocks, bool invariant) {
  PrefillPlan plan;
  for (const PrefillSequence& sequence : sequences) {
    for (int head = 0; head < shape.num_kv_heads; ++head) AddTiles(shape, sequence, head, plan);
  }
  PrefillPlan whole = plan;
  if (DealWhole(num_blocks, whole) <= kCutCost || invariant) return whole;
  DealCut(num_blocks, plan);
  return plan;
}

size_t PrefillScratchBytes(const PrefillPlan& plan, int head_dim) {
  return sizeof(float) * plan.num_slots * kPrefillTileRows * (head_dim + 2);
}

void RunPrefill(const PrefillArgs& args, cudaStream_t stream) {
  TANGRAM_CHECK(args.kv.head_dim == 64 || args.kv.head_dim == 128, "head_dim {}",
                args.kv.head_dim);
  if (CurrentDevice().compute_major == 9) return RunPrefillSm90(args, stream);
  RunPrefillSimple(args, stream);
}

}  // namespace tangram::ops::cuda
