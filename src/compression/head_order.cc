#include "compression/head_order.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <vector>

#include "base/log.h"
#include "model/mapped_file.h"

namespace tangram {
namespace {

using Json = nlohmann::json;

tl::unexpected<Error> Bad(const std::string& path, std::string_view why) {
  return MakeError(ErrorKind::kInvalidArgument,
                   fmt::format("--head-group-cluster-map {}: {}", path, why),
                   "head_group_cluster_map");
}

// Appends the heads of a list, or of a list of lists.
bool Flatten(const Json& json, bool nested, std::vector<int32_t>& order) {
  if (!json.is_array()) return false;
  for (const Json& item : json) {
    if (item.is_array()) {
      if (nested || !Flatten(item, true, order)) return false;
    } else if (item.is_number_unsigned() && item.get<uint64_t>() < (1u << 24)) {
      order.push_back(item.get<int32_t>());
    } else {
      return false;
    }
  }
  return true;
}

Result<std::vector<int32_t>> ReadOrder(const std::string& path, int num_heads) {
  auto file = MapFile(path);
  if (!file) return Bad(path, file.error().message);
  std::vector<int32_t> order;
  if (!Flatten(Json::parse(AsText(*file), nullptr, false), false, order)) {
    return Bad(path, "not a JSON list of heads, or of groups of heads");
  }
  std::vector<bool> seen(static_cast<size_t>(num_heads));
  for (const int32_t head : order) {
    if (head >= num_heads || seen[static_cast<size_t>(head)]) {
      return Bad(path, fmt::format("head {} is there twice, or is none of the model's {}", head,
                                   num_heads));
    }
    seen[static_cast<size_t>(head)] = true;
  }
  if (static_cast<int>(order.size()) != num_heads) {
    return Bad(path, fmt::format("{} heads in it, and the model has {}", order.size(), num_heads));
  }
  return order;
}

}  // namespace

Result<int> ChooseGroupSize(int num_layers, int num_kv_heads, BudgetLevel level, int wanted) {
  constexpr int kDefault = CompressionConfig::kGroupSize;
  const bool inside_layers = level == BudgetLevel::kPerLayer;
  const int heads = inside_layers ? num_kv_heads : num_layers * num_kv_heads;
  const char* of_what = inside_layers ? "of a layer" : "of the model";
  if (wanted == 0) {
    const int size = HeadGroupMap::ValidGroupSize(heads, kDefault);
    if (size != kDefault) {
      LogInfo(
          "--page-group-size: {} instead of {}, the largest below it that divides the {} KV heads "
          "{}",
          size, kDefault, heads, of_what);
    }
    return size;
  }
  if (wanted < 0 || heads % wanted != 0) {
    return MakeError(
        ErrorKind::kInvalidArgument,
        fmt::format("--page-group-size {} does not divide the {} KV heads {}; {} does", wanted,
                    heads, of_what, HeadGroupMap::ValidGroupSize(heads, std::max(1, wanted))),
        "page_group_size");
  }
  return wanted;
}

Result<HeadGroupMap> MapHeads(const std::string& map, const CompressionConfig& config,
                              const HeadDemand& demand, int group_size) {
  const int layers = demand.num_layers, heads = demand.num_kv_heads;
  if (map == "auto") {
    // At ratio 1 all heads want the same: they are grouped for what requests are likely to ask.
    const float ratio = config.ratio < 1
                            ? config.ratio
                            : std::max(CompressionConfig::kSuggestedRatio, demand.ratios.front());
    return GroupHeads(demand, ratio, config.level, group_size);
  }
  if (map == "identity") return HeadGroupMap::Natural(layers, heads, group_size);
  TANGRAM_ASSIGN_OR_RETURN(const auto order, ReadOrder(map, layers * heads));
  const auto size = static_cast<size_t>(group_size);
  for (size_t i = 0; config.level == BudgetLevel::kPerLayer && i < order.size(); ++i) {
    if (order[i] / heads != order[i / size * size] / heads) {
      return Bad(map, fmt::format("group {} has heads of several layers, and budgets are per layer",
                                  i / size));
    }
  }
  return HeadGroupMap(layers, heads, group_size, order);
}

}  // namespace tangram
