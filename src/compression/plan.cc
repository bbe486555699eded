#include "compression/plan.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>

#include "base/log.h"
#include "compression/fastkvzip.h"
#include "compression/find_profile.h"
#include "compression/head_order.h"
#include "paging/budget.h"

namespace tangram {
namespace {

tl::unexpected<Error> Invalid(std::string message, std::string param) {
  return MakeError(ErrorKind::kInvalidArgument, std::move(message), std::move(param));
}

Result<HeadDemand> DemandOf(const FoundProfile& found, const CompressionConfig& c) {
  const auto it = found.profile.scorers.find(c.scorer);
  if (it == found.profile.scorers.end()) {
    std::vector<std::string_view> known;
    for (const auto& [scorer, measured] : found.profile.scorers)
      known.push_back(ScorerName(scorer));
    return Invalid(
        fmt::format("{}: the scorer {} was not measured for this profile; give "
                    "--compression-scorer {}, or make one that knows it with 'tangram calibrate{}'",
                    found.path, ScorerName(c.scorer), fmt::join(known, " or "),
                    c.scorer == Scorer::kFastKvzip ? " --compression-gate-path GATES" : ""),
        "compression_scorer");
  }
  const HeadDemand& demand = it->second.demand;
  if (c.ratio < demand.ratios.front()) {
    return Invalid(
        fmt::format("--compression-ratio {:.2f} is below {:.2f}, the smallest that {} was "
                    "measured at",
                    c.ratio, demand.ratios.front(), found.path),
        "compression_ratio");
  }
  return demand;
}

Result<FastKvzipWeights> FastKvzipOf(const CompressionOptions& config, const Model& model,
                                     ops::Backend& backend) {
  if (config.compression_gate.empty()) {
    return Invalid(
        "--compression-scorer fastkvzip needs --compression-gate-path, the gates that were "
        "trained for the model, as tools/convert_fastkvzip.py writes them",
        "compression_gate_path");
  }
  return LoadFastKvzip(config.compression_gate, model.config(), backend);
}

Result<std::vector<TokenId>> RepeatPrompt(const Profile& profile, int vocab_size,
                                          const std::string& path) {
  const auto known = [&](TokenId token) { return token >= 0 && token < vocab_size; };
  if (profile.repeat_prompt.empty() || !std::ranges::all_of(profile.repeat_prompt, known)) {
    return Invalid(fmt::format("{}: it does not say how to ask this model to repeat a text; make "
                               "it again with 'tangram calibrate'",
                               path),
                   "compression_profile");
  }
  return profile.repeat_prompt;
}

Status UploadGate(const Profile& profile, ops::Backend& backend, CompressionPlan& plan) {
  const size_t weights = profile.gate_weight.size(), biases = profile.gate_bias.size();
  plan.gate_memory.push_back(Buffer::AllocateHost((weights + biases) * sizeof(float)));
  const auto no_memory = [] {
    return MakeError(ErrorKind::kOutOfMemory, "not enough memory for the gate of the profile");
  };
  auto* memory = static_cast<float*>(plan.gate_memory.front().data());
  if (memory == nullptr) return no_memory();
  std::ranges::copy(profile.gate_weight, memory);
  std::ranges::copy(profile.gate_bias, memory + weights);
  const int64_t heads = profile.num_kv_heads, width = profile.hidden_size;
  for (int64_t l = 0; l < profile.num_layers; ++l) {
    plan.gate.weight.push_back(
        backend.Upload({memory + l * heads * width, DType::kF32, {heads, width}}));
    plan.gate.bias.push_back(
        backend.Upload({memory + static_cast<int64_t>(weights) + l * heads, DType::kF32, {heads}}));
    if (plan.gate.weight.back().empty() || plan.gate.bias.back().empty()) return no_memory();
  }
  return {};
}

// Every percent that the profile knows, so that a request may choose its own.
void BuildTables(const HeadDemand& demand, const CompressionOptions& config, int max_model_len,
                 CompressionPlan& plan) {
  const int least = static_cast<int>(std::ceil(demand.ratios.front() * 100 - 1e-3));
  for (int percent = least; percent < RetentionTable::kFullPercent; ++percent) {
    CompressionConfig c = config.compression;
    c.ratio = std::max(static_cast<float>(percent) / 100.0f, demand.ratios.front());
    plan.tables.push_back(BuildRetentionTable(c, GroupDemand(demand, plan.heads, c.ratio, c.level),
                                              config.page_size, max_model_len));
  }
}

// What every row keeps of a first chunk, whatever its heads want.
void WarnOfFloor(const CompressionConfig& c, int floor) {
  const float kept = c.ratio * static_cast<float>(c.chunk);
  const float share = static_cast<float>(floor) / kept;
  if (share > 1) {
    LogWarning(
        "the floor of {} tokens a head group hides the ratio {:.2f} in contexts below {:.0f} "
        "tokens",
        floor, c.ratio, static_cast<float>(floor) / c.ratio);
  } else if (share > 0.5f) {
    LogWarning(
        "the floor of {} tokens a head group leaves {:.0f} of the {:.0f} that the ratio {:.2f} "
        "keeps of a "
        "first chunk to be shared out by demand; a smaller floor or a larger chunk leaves more",
        floor, kept - static_cast<float>(floor), kept, c.ratio);
  }
}

}  // namespace

Result<CompressionPlan> PlanCompression(const CompressionOptions& config, const Model& model,
                                        int max_model_len, ops::Backend& backend,
                                        const FoundProfile* given) {
  const CompressionConfig& c = config.compression;
  const int layers = model.config().num_layers, kv_heads = model.config().num_key_value_heads;
  if (!c.enabled()) {
    TANGRAM_ASSIGN_OR_RETURN(
        const int size,
        ChooseGroupSize(layers, kv_heads, BudgetLevel::kUniform, config.page_group_size));
    CompressionPlan plan{HeadGroupMap::Natural(layers, kv_heads, size), {}, {}, {}, {}};
    plan.tables.push_back(RetentionTable::Full(plan.heads.num_groups(), c.chunk));
    return plan;
  }
  TANGRAM_RETURN_IF_ERROR(CheckCompression(c, config.page_size));
  TANGRAM_ASSIGN_OR_RETURN(const int size,
                           ChooseGroupSize(layers, kv_heads, c.level, config.page_group_size));
  if (given == nullptr) return tl::unexpected(NoProfileError(config));
  const FoundProfile& found = *given;
  TANGRAM_ASSIGN_OR_RETURN(const HeadDemand demand, DemandOf(found, c));
  TANGRAM_ASSIGN_OR_RETURN(HeadGroupMap heads, MapHeads(config.head_group_map, c, demand, size));
  CompressionPlan plan{std::move(heads), {}, {}, {}, {}, found.path + ", " + found.origin};
  plan.tables.push_back(RetentionTable::Full(plan.heads.num_groups(), c.chunk));
  BuildTables(demand, config, max_model_len, plan);
  if (c.scorer == Scorer::kGate) {
    TANGRAM_RETURN_IF_ERROR(UploadGate(found.profile, backend, plan));
  }
  if (c.scorer == Scorer::kFastKvzip) {
    TANGRAM_ASSIGN_OR_RETURN(FastKvzipWeights gates, FastKvzipOf(config, model, backend));
    plan.gate.fastkvzip = std::move(gates.layers);
    plan.gate_memory = std::move(gates.owners);
  }
  if (c.needs_reconstruction_pass()) {
    TANGRAM_ASSIGN_OR_RETURN(plan.repeat_prompt,
                             RepeatPrompt(found.profile, model.config().vocab_size, found.path));
  }
  WarnOfFloor(c, RetentionFloor(c, config.page_size));
  if (max_model_len <= c.chunk) {
    LogWarning(
        "contexts of at most {} tokens end before they are compressed; lower "
        "--compression-chunk-size {}",
        max_model_len, c.chunk);
  }
  return plan;
}

}  // namespace tangram
