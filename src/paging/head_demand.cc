#include "paging/head_demand.h"

#include <algorithm>
#include <numeric>

#include "base/check.h"

namespace tangram {
std::vector<float> HeadDemand::At(float ratio) const {
  const auto heads = static_cast<size_t>(num_layers * num_kv_heads);
  TANGRAM_CHECK(!ratios.empty() && ratio >= ratios.front() && ratio <= 1, "ratio {}", ratio);
  const auto upper = static_cast<size_t>(std::ranges::lower_bound(ratios, ratio) - ratios.begin());
  const float high = upper < ratios.size() ? ratios[upper] : 1.0f;
  const float low = upper > 0 ? ratios[upper - 1] : high;
  const float weight = high > low ? (ratio - low) / (high - low) : 1.0f;
  std::vector<float> out(heads);
  for (size_t i = 0; i < heads; ++i) {
    const float at_high = upper < ratios.size() ? shares[upper * heads + i] : 1.0f;
    const float at_low = upper > 0 ? shares[(upper - 1) * heads + i] : at_high;
    out[i] = at_low + weight * (at_high - at_low);
  }
  return out;
}

HeadGroupMap GroupHeads(const HeadDemand& demand, float ratio, BudgetLevel level, int group_size) {
  const int heads = demand.num_layers * demand.num_kv_heads;
  const std::vector<float> shares = demand.At(ratio);
  std::vector<int32_t> order(static_cast<size_t>(heads));
  std::iota(order.begin(), order.end(), 0);
  const auto by_demand = [&](int32_t a, int32_t b) {
    return shares[static_cast<size_t>(a)] > shares[static_cast<size_t>(b)];
  };
  const int run = level == BudgetLevel::kUniform    ? 0
                  : level == BudgetLevel::kPerLayer ? demand.num_kv_heads
                                                    : heads;
  for (int first = 0; run > 0 && first < heads; first += run) {
    std::stable_sort(order.begin() + first, order.begin() + first + run, by_demand);
  }
  return HeadGroupMap(demand.num_layers, demand.num_kv_heads, group_size, order);
}

std::vector<double> GroupDemand(const HeadDemand& demand, const HeadGroupMap& map, float ratio,
                                BudgetLevel level) {
  const std::vector<float> shares = demand.At(ratio);
  const int heads = map.num_kv_heads();
  std::vector<double> groups(static_cast<size_t>(map.num_groups()));
  for (int layer = 0; layer < map.num_layers(); ++layer) {
    const auto first = shares.begin() + layer * heads;
    const double layer_sum = std::accumulate(first, first + heads, 0.0);
    for (int head = 0; head < heads; ++head) {
      double share = first[head];
      if (level == BudgetLevel::kUniform) share = 1;
      if (level == BudgetLevel::kPerLayer) share = layer_sum > 0 ? share / layer_sum : 1;
      groups[static_cast<size_t>(map.groups(layer)[static_cast<size_t>(head)])] += share;
    }
  }
  return groups;
}

}  // namespace tangram
