#pragma once

#include <string>

#include "base/result.h"
#include "paging/head_demand.h"

namespace tangram {

// The group size that was asked for, or, for 0, the largest up to 4 that divides the heads that may
// share a group: a layer's where budgets are per layer, else the model's. kInvalidArgument, naming
// one that does, if `wanted` does not divide them.
Result<int> ChooseGroupSize(int num_layers, int num_kv_heads, BudgetLevel level, int wanted);

// Which heads share a group, as --head-group-cluster-map says: `auto`, those of like demand at
// config.ratio; `identity`, neighbours; else a JSON file: all heads (layer * Hkv + head) in the
// order that is cut into runs of group_size, in one list or a list for each group.
// kInvalidArgument if the file is no such list, or mixes layers where budgets are per layer.
Result<HeadGroupMap> MapHeads(const std::string& map, const CompressionConfig& config,
                              const HeadDemand& demand, int group_size);

}  // namespace tangram
