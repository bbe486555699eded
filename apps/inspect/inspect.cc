// tangram inspect: what compression makes of a model's KV cache, without loading its weights.

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

#include "base/numbers.h"
#include "command.h"
#include "compression/find_profile.h"
#include "compression/head_order.h"
#include "compression_options.h"
#include "exit_codes.h"
#include "inspect/report.h"
#include "model/gguf.h"
#include "paging/budget.h"

namespace tangram::apps::inspect {
namespace {

struct InspectConfig {
  EngineConfig engine;
  std::string svg;
  std::vector<std::string> contexts, concurrencies = {"1", "8", "32", "128"};
};

void Declare(Options& options, InspectConfig& config) {
  options.Group("What to look at");
  options
      .Add("model", &config.engine.model_path,
           "a GGUF file or a folder with a config.json, or a profile by itself")
      .Positional()
      .Alias("-m");
  options
      .Add("contexts", &config.contexts,
           "context lengths in tokens; empty: several, up to the longest")
      .Commas();
  options.Add("concurrencies", &config.concurrencies, "numbers of sequences that run at once")
      .Commas();
  options.Add("svg", &config.svg, "folder to write retention.svg, groups.svg and memory.svg to");
  options.Group("KV cache");
  options
      .Add("kv-cache-dtype", &config.engine.kv_cache_dtype,
           "type of keys and values; auto: 16 bits")
      .OneOf({"auto", "f16", "float16", "bf16", "bfloat16", "f32", "float32"});
  options.Add("block-size", &config.engine.page_size, "tokens per page").Alias("--page-size");
  options.Add("page-group-size", &config.engine.page_group_size,
              "KV heads that share a page table; 0: 4, or the largest smaller number that divides "
              "all heads");
  config.engine.compression.ratio = CompressionConfig::kSuggestedRatio;
  DeclareCompressionOptions(options, config.engine);
}

Result<std::vector<int>> Numbers(const std::vector<std::string>& words, const char* param) {
  std::vector<int> numbers;
  for (const std::string& word : words) {
    constexpr int64_t kMost = 1 << 22;
    const auto number = ParseInteger(word);
    if (!number || *number < 1 || *number > kMost) {
      return MakeError(ErrorKind::kInvalidArgument,
                       fmt::format("{} {}: not a number from 1 to {}", FlagOf(param), word, kMost),
                       param);
    }
    numbers.push_back(static_cast<int>(*number));
  }
  return numbers;
}

bool IsModel(const std::string& path) {
  std::error_code ignored;
  return std::filesystem::is_directory(path, ignored) || LooksLikeGguf(path);
}

// The profile's path: named, beside the model, or shipped under its name, since the weights are not
// read. kInvalidArgument if there is none.
Result<std::string> ProfilePath(const EngineConfig& config) {
  if (!config.compression_profile.empty()) return config.compression_profile;
  std::error_code ignored;
  std::string beside = ProfilePathBeside(config.model_path);
  if (std::filesystem::exists(beside, ignored)) return beside;
  std::string shipped = ShippedProfileByName(config.shipped_profiles, config.model_path);
  if (!shipped.empty()) return shipped;
  return MakeError(ErrorKind::kInvalidArgument,
                   fmt::format("there is no profile at {}; name one with --compression-profile "
                               "(the log of a server that made its own says where it is), or make "
                               "it with 'tangram calibrate {}'",
                               beside, config.model_path),
                   "compression_profile");
}

Result<Inspection> LoadModelAndProfile(const EngineConfig& config) {
  Inspection made;
  TANGRAM_ASSIGN_OR_RETURN(const ModelConfig model, ReadModelConfig(config.model_path));
  made.head_dim = model.head_dim;
  made.max_context = model.max_position_embeddings;
  TANGRAM_ASSIGN_OR_RETURN(const std::string path, ProfilePath(config));
  TANGRAM_ASSIGN_OR_RETURN(made.profile, LoadProfile(path));
  TANGRAM_RETURN_IF_ERROR(CheckProfileHeads(made.profile, model, path));
  made.name = fmt::format("{} with {}", config.model_path, path);
  return made;
}

Result<Inspection> LoadProfileAlone(const std::string& path) {
  Inspection made;
  TANGRAM_ASSIGN_OR_RETURN(made.profile, LoadProfile(path));
  made.name = path;
  made.max_context = 32768;
  return made;
}

// A profile may know other scorers than the one that is served by default.
Status ChooseScorer(const Options& options, const Profile& profile, CompressionConfig& c) {
  if (!options.Given("compression-scorer") && !profile.scorers.contains(c.scorer)) {
    c.scorer = profile.scorers.begin()->first;
    if (!options.Given("compression-level")) c.level = DefaultLevel(c.scorer);
  }
  const auto it = profile.scorers.find(c.scorer);
  if (it == profile.scorers.end()) {
    return MakeError(ErrorKind::kInvalidArgument,
                     fmt::format("the profile does not know the scorer {}", ScorerName(c.scorer)),
                     "compression_scorer");
  }
  const float least = it->second.demand.ratios.front();
  if (c.ratio < least || c.ratio == 1) {
    return MakeError(
        ErrorKind::kInvalidArgument,
        fmt::format("--compression-ratio {:.2f}: the profile covers ratios from {:.2f} to 0.99",
                    c.ratio, least),
        "compression_ratio");
  }
  return {};
}

Result<std::vector<int>> Contexts(const InspectConfig& config, int longest) {
  if (!config.contexts.empty()) return Numbers(config.contexts, "contexts");
  std::vector<int> contexts;
  for (int n = 1024; n < longest; n *= 4) contexts.push_back(n);
  contexts.push_back(longest);
  return contexts;
}

Status Inspect(const Options& options, InspectConfig& config) {
  EngineConfig& engine = config.engine;
  CompressionConfig& c = engine.compression;
  TANGRAM_ASSIGN_OR_RETURN(Inspection made, IsModel(engine.model_path)
                                                ? LoadModelAndProfile(engine)
                                                : LoadProfileAlone(engine.model_path));
  TANGRAM_RETURN_IF_ERROR(ChooseScorer(options, made.profile, c));
  const HeadDemand& demand = made.profile.scorers.at(c.scorer).demand;
  TANGRAM_ASSIGN_OR_RETURN(const int size, ChooseGroupSize(demand.num_layers, demand.num_kv_heads,
                                                           c.level, engine.page_group_size));
  TANGRAM_ASSIGN_OR_RETURN(made.groups, MapHeads(engine.head_group_map, c, demand, size));
  TANGRAM_ASSIGN_OR_RETURN(made.contexts, Contexts(config, made.max_context));
  TANGRAM_ASSIGN_OR_RETURN(made.concurrencies, Numbers(config.concurrencies, "concurrencies"));
  made.compression = c;
  made.page_size = engine.page_size;
  made.element_bytes = engine.kv_cache_dtype.ends_with("32") ? 4 : 2;
  made.row_shares = GroupDemand(demand, *made.groups, c.ratio, c.level);
  const int longest = *std::ranges::max_element(made.contexts);
  made.table = BuildRetentionTable(c, made.row_shares, engine.page_size, longest + c.chunk);
  fmt::print("{}", TextReport(made));
  return config.svg.empty() ? Status{} : WriteDrawings(made, config.svg);
}

}  // namespace

int RunInspect(Args args) {
  InspectConfig config;
  Options options(
      "tangram inspect MODEL|PROFILE [flags]",
      "Shows what compression makes of a model's KV cache: retention by layer and head,\n"
      "groups, memory by context and concurrency, and what is wasted. No weights are "
      "read.");
  Declare(options, config);
  if (const auto code = ParseOrExit(options, std::move(args))) return *code;
  if (config.engine.model_path.empty()) {
    return Fail(
        {ErrorKind::kInvalidArgument, "name a model or a profile: tangram inspect MODEL", "model"});
  }
  const Status status = Inspect(options, config);
  return status ? kExitOk : Fail(status.error());
}

}  // namespace tangram::apps::inspect
