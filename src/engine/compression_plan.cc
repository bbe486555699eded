#include "engine/compression_plan.h"

#include <algorithm>
#include <cmath>
#include <filesystem>

#include "base/log.h"
#include "engine/profile.h"
#include "paging/budget.h"

namespace tangram {
namespace {

tl::unexpected<Error> Invalid(std::string message, std::string param) {
  return MakeError(ErrorKind::kInvalidArgument, std::move(message), std::move(param));
}

// The group size that was asked for, or the largest up to 4 that divides `heads`, the heads that
// may share a group.
Result<int> GroupSize(int heads, int wanted, const char* of_what) {
  constexpr int kDefault = 4;
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
    return Invalid(
        fmt::format("--page-group-size {} does not divide the {} KV heads {}; {} does", wanted,
                    heads, of_what, HeadGroupMap::ValidGroupSize(heads, std::max(1, wanted))),
        "page_group_size");
  }
  return wanted;
}

Status CheckOptions(const CompressionConfig& c, int page_size) {
  if (!(c.ratio > 0 && c.ratio <= 1)) {
    return Invalid(fmt::format("--compression-ratio {} is not in (0, 1]", c.ratio),
                   "compression_ratio");
  }
  if (c.chunk <= 0 || c.chunk % page_size != 0) {
    return Invalid(
        fmt::format("--compression-chunk-size {} is not a multiple of the page, {} tokens", c.chunk,
                    page_size),
        "compression_chunk_size");
  }
  if (c.window <= 0 || c.window >= c.chunk) {
    return Invalid(
        fmt::format("--compression-window-size {} must be at least 1 and below the chunk, {}",
                    c.window, c.chunk),
        "compression_window_size");
  }
  const SnapKvConfig& snap = c.snapkv;
  if (snap.window < 0 || snap.window > c.chunk || snap.kernel < 1 || snap.kernel % 2 == 0 ||
      snap.kernel > c.chunk) {
    return Invalid(
        fmt::format("--compression-snap-window {} and --compression-snap-kernel {} must be at most "
                    "the chunk, {}, and the kernel odd",
                    snap.window, snap.kernel, c.chunk),
        "compression_snap_window");
  }
  const ExpectedAttentionConfig& expected = c.expected_attention;
  if (expected.future_positions < 1 || !(expected.epsilon >= 0)) {
    return Invalid(fmt::format("--compression-ea-n-future-positions {} must be at least 1, and "
                               "--compression-ea-epsilon {} at least 0",
                               expected.future_positions, expected.epsilon),
                   "compression_ea_n_future_positions");
  }
  if (c.sinks < 0 || RetentionFloor(c, page_size) > c.chunk) {
    return Invalid(
        fmt::format("sinks, window and floor keep {} tokens of the first chunk's {}; lower "
                    "--compression-floor-min, or raise --compression-chunk-size",
                    RetentionFloor(c, page_size), c.chunk),
        c.sinks < 0 ? "compression_n_sink_tokens" : "compression_floor_min");
  }
  return {};
}

// The profile that was named, or the one beside the model, where `tangram calibrate` writes it.
Result<std::string> ProfilePath(const EngineConfig& config) {
  if (!config.compression_profile.empty()) return config.compression_profile;
  std::filesystem::path model(config.model_path);
  if (!model.has_filename()) model = model.parent_path();  // a folder with a slash behind it
  const std::string beside = model.string() + ".profile.safetensors";
  std::error_code ignored;
  if (std::filesystem::exists(beside, ignored)) return beside;
  return Invalid(
      fmt::format("compression needs a profile of the model, and there is none at {}; make it "
                  "with 'tangram calibrate {}', or name one with --compression-profile",
                  beside, config.model_path),
      "compression_profile");
}

Result<HeadDemand> DemandOf(const Profile& profile, const EngineConfig& config,
                            const std::string& path) {
  const CompressionConfig& c = config.compression;
  const auto it = profile.scorers.find(c.scorer);
  if (it == profile.scorers.end()) {
    return Invalid(fmt::format("{}: no demand for the scorer {} in it; calibrate with --scorers {}",
                               path, ScorerName(c.scorer), ScorerName(c.scorer)),
                   "compression_scorer");
  }
  const HeadDemand& demand = it->second.demand;
  if (c.ratio < demand.ratios.front()) {
    return Invalid(fmt::format("--compression-ratio {:.2f} is below {:.2f}, the smallest that the "
                               "profile was measured at",
                               c.ratio, demand.ratios.front()),
                   "compression_ratio");
  }
  return demand;
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

void UploadGate(const Profile& profile, ops::Backend& backend, CompressionPlan& plan) {
  const size_t weights = profile.gate_weight.size(), biases = profile.gate_bias.size();
  plan.gate_memory = Buffer::AllocateHost((weights + biases) * sizeof(float));
  auto* memory = static_cast<float*>(plan.gate_memory.data());
  std::ranges::copy(profile.gate_weight, memory);
  std::ranges::copy(profile.gate_bias, memory + weights);
  const int64_t heads = profile.num_kv_heads, width = profile.hidden_size;
  for (int64_t l = 0; l < profile.num_layers; ++l) {
    plan.gate.weight.push_back(
        backend.Upload({memory + l * heads * width, DType::kF32, {heads, width}}));
    plan.gate.bias.push_back(
        backend.Upload({memory + static_cast<int64_t>(weights) + l * heads, DType::kF32, {heads}}));
  }
}

// Every percent that the profile knows, so that a request may choose its own.
void BuildTables(const HeadDemand& demand, const EngineConfig& config, int max_model_len,
                 CompressionPlan& plan) {
  const int least = static_cast<int>(std::ceil(demand.ratios.front() * 100 - 1e-3));
  for (int percent = least; percent < RetentionTable::kFullPercent; ++percent) {
    CompressionConfig c = config.compression;
    c.ratio = std::max(static_cast<float>(percent) / 100.0f, demand.ratios.front());
    plan.tables.push_back(BuildRetentionTable(c, RowDemand(demand, plan.heads, c.ratio, c.level),
                                              config.page_size, max_model_len));
  }
}

}  // namespace

Result<CompressionPlan> PlanCompression(const EngineConfig& config, const Model& model,
                                        int max_model_len, ops::Backend& backend) {
  const CompressionConfig& c = config.compression;
  const int layers = model.config().num_layers, kv_heads = model.config().num_key_value_heads;
  if (!c.enabled()) {
    TANGRAM_ASSIGN_OR_RETURN(const int size,
                             GroupSize(layers * kv_heads, config.page_group_size, "of the model"));
    CompressionPlan plan{HeadGroupMap::Natural(layers, kv_heads, size), {}, {}, {}, {}};
    plan.tables.push_back(RetentionTable::Full(plan.heads.num_rows(), c.chunk));
    return plan;
  }
  TANGRAM_RETURN_IF_ERROR(CheckOptions(c, config.page_size));
  TANGRAM_ASSIGN_OR_RETURN(const std::string path, ProfilePath(config));
  TANGRAM_ASSIGN_OR_RETURN(const Profile profile, LoadProfile(path));
  TANGRAM_RETURN_IF_ERROR(CheckProfile(profile, model.fingerprint(), path));
  TANGRAM_ASSIGN_OR_RETURN(const HeadDemand demand, DemandOf(profile, config, path));
  const bool inside_layers = c.level == BudgetLevel::kPerLayer;
  TANGRAM_ASSIGN_OR_RETURN(
      const int size,
      GroupSize(inside_layers ? kv_heads : layers * kv_heads, config.page_group_size,
                inside_layers ? "of a layer" : "of the model"));
  CompressionPlan plan{GroupHeads(demand, c.ratio, c.level, size), {}, {}, {}, {}};
  plan.tables.push_back(RetentionTable::Full(plan.heads.num_rows(), c.chunk));
  BuildTables(demand, config, max_model_len, plan);
  if (c.scorer == Scorer::kGate) UploadGate(profile, backend, plan);
  if (c.needs_own_pass()) {
    TANGRAM_ASSIGN_OR_RETURN(plan.repeat_prompt,
                             RepeatPrompt(profile, model.config().vocab_size, path));
  }
  if (RetentionFloor(c, config.page_size) > c.ratio * static_cast<float>(c.chunk)) {
    LogWarning(
        "the floor of {} tokens a row hides the ratio {:.2f} in contexts below {:.0f} tokens",
        RetentionFloor(c, config.page_size), c.ratio,
        static_cast<float>(RetentionFloor(c, config.page_size)) / c.ratio);
  }
  return plan;
}

}  // namespace tangram
