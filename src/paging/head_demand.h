#pragma once

#include <span>
#include <vector>

#include "paging/compression_config.h"
#include "paging/head_group_map.h"

namespace tangram {

// How much of the cache each head wants at some ratios: shares in [0, 1], means over calibration
// samples.
struct HeadDemand {
  int num_layers = 0, num_kv_heads = 0;
  std::vector<float> ratios;  // ascending, below 1
  std::vector<float> shares;  // [ratios, L * Hkv]

  // Shares at any ratio from the smallest profiled one to 1, where all is kept: linear between
  // profiled ratios. [L * Hkv]
  std::vector<float> At(float ratio) const;
};

// Heads of like demand to a group. Cross-layer: sorted over the whole model; per-layer: inside each
// layer; uniform: as they come.
HeadGroupMap GroupHeads(const HeadDemand& demand, float ratio, BudgetLevel level, int group_size);

// How much of each group's tokens should stay at `ratio`, for BuildRetentionTable: means over the
// group's heads; per-layer: relative to their layer's mean; uniform: the same for all.
std::vector<double> GroupDemand(const HeadDemand& demand, const HeadGroupMap& map, float ratio,
                                BudgetLevel level);

}  // namespace tangram
