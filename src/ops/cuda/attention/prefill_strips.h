#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "ops/cuda/attention/prefill.h"

namespace tangram::ops::cuda {

// What an item costs besides its blocks of keys, in their time: loading queries, filling the
// pipeline, writing the result.
inline constexpr int kPrefillItemCost = 2;
// What a part of a cut tile costs on top: leaving its sums.
inline constexpr int kPrefillPartCost = 1;
// What cutting tiles costs: a second kernel to add the parts.
inline constexpr int kPrefillCutCost = 6;
// The least that a part may have: one over fewer blocks could hide all its keys from some token.
inline constexpr int kPrefillFewestBlocks = 2;

// Which items each thread block takes.
struct PrefillDeal {
  std::vector<std::vector<PrefillItem>> blocks;
  int64_t most = 0;  // work of the busiest block
};

// Deals tiles out in strips: adjacent tiles of a head, which as many thread blocks, a group, take
// side by side, so that they read the same keys. A group takes whole strips, and a share of a
// strip's keys where that makes groups more equal. So heads of unequal lengths are dealt out as
// evenly as equal ones. `heads`: the tiles of each, the longest first, as many of each head, and at
// most `num_blocks`. Nothing if no deal keeps the busiest block's work below `limit`.
std::optional<PrefillDeal> DealStrips(std::span<const std::vector<PrefillItem>> heads,
                                      int num_blocks, int64_t limit);

}  // namespace tangram::ops::cuda
