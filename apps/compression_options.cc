#include "compression_options.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <memory>

#include "shipped_profiles.h"

namespace tangram::apps {
namespace {

using Kind = Options::Option::Kind;

tl::unexpected<Error> Invalid(std::string message, std::string flag) {
  return MakeError(ErrorKind::kInvalidArgument, std::move(message), std::move(flag));
}

// Either flag switches compression on; a switch without a ratio says nothing.
Status CheckSwitch(const Options& options, const EngineConfig& config) {
  const CompressionConfig& c = config.compression;
  if (c.by_request && !options.Given("compression-ratio")) {
    return Invalid(
        fmt::format("--enable-compression needs the share of the KV cache that is to be kept, e.g. "
                    "--compression-ratio {}; at 1 each request may ask for its own",
                    CompressionConfig::kSuggestedRatio),
        "compression_ratio");
  }
  if (!c.by_request && options.Given("enable-compression") && c.enabled()) {
    return Invalid(fmt::format("--no-enable-compression and --compression-ratio {} contradict each "
                               "other; leave one out",
                               c.ratio),
                   "enable_compression");
  }
  return {};
}

// Tables of lengths are made for whole percents.
void RoundRatio(Options& options, CompressionConfig& c) {
  const float rounded = std::max(1.0f, std::round(c.ratio * 100)) / 100;
  if (std::abs(rounded - c.ratio) > 1e-6f) {
    options.Warn(
        fmt::format("--compression-ratio {} is rounded to {:.2f}: ratios are whole hundredths",
                    c.ratio, rounded));
  }
  c.ratio = rounded;
}

// Of flags that belong to one scorer, and were given beside another.
void WarnOfOtherScorers(Options& options, Scorer scorer) {
  constexpr std::pair<const char*, Scorer> kFlags[] = {
      {"compression-gate-path", Scorer::kFastKvzip},
      {"compression-snap-window", Scorer::kSnapKv},
      {"compression-snap-kernel", Scorer::kSnapKv},
      {"compression-ea-use-covariance", Scorer::kExpectedAttention},
      {"compression-ea-use-vnorm", Scorer::kExpectedAttention},
      {"compression-ea-n-future-positions", Scorer::kExpectedAttention},
      {"compression-ea-epsilon", Scorer::kExpectedAttention},
  };
  for (const auto& [flag, of] : kFlags) {
    if (!options.Given(flag) || scorer == of) continue;
    options.Warn(fmt::format("--{} belongs to the scorer {}, and has no effect with {}", flag,
                             ScorerName(of), ScorerName(scorer)));
  }
}

// Of flags that say how to compress, where nothing is.
void WarnOfNoCompression(Options& options) {
  options.WarnOfNoEffect(
      {"compression-profile", "compression-chunk-size", "compression-window-size",
       "compression-n-sink-tokens", "compression-floor-min", "compression-scorer",
       "compression-level", "compression-gate-path", "compression-snap-window",
       "compression-snap-kernel", "compression-ea-use-covariance", "compression-ea-use-vnorm",
       "compression-ea-n-future-positions", "compression-ea-epsilon", "head-group-cluster-map"},
      fmt::format("nothing is compressed unless --compression-ratio is below 1, e.g. {}",
                  CompressionConfig::kSuggestedRatio));
}

Status Finish(Options& options, EngineConfig& config, const std::string& level) {
  CompressionConfig& c = config.compression;
  TANGRAM_RETURN_IF_ERROR(CheckSwitch(options, config));
  if (!options.Given("compression-level")) c.level = DefaultLevel(c.scorer);
  if (config.page_size < 1) return Invalid("--block-size must be at least 1", "block_size");
  TANGRAM_RETURN_IF_ERROR(CheckCompression(c, config.page_size));
  if (!c.enabled()) return WarnOfNoCompression(options), Status{};
  RoundRatio(options, c);
  WarnOfOtherScorers(options, c.scorer);
  if (level.ends_with("_head") && config.page_group_size != 1) {
    options.Warn(fmt::format(
        "--compression-level {}: heads of a group share a length; --page-group-size 1 gives each "
        "head its own",
        level));
  }
  return {};
}

}  // namespace

void DeclareCompressionSizes(Options& options, CompressionConfig& c) {
  options.Add("compression-chunk-size", &c.chunk, "tokens between compressions");
  options.Add("compression-window-size", &c.window, "most recent tokens, always kept");
  options.Add("compression-n-sink-tokens", &c.sinks, "first tokens, always kept");
  options.Add("compression-floor-min", &c.floor,
              "least tokens that a head keeps; 0: sinks and window, rounded up to a page");
}

void DeclareCompressionOptions(Options& options, EngineConfig& config) {
  CompressionConfig& c = config.compression;
  options.Group("KV cache compression");
  options.Add("enable-compression", &c.by_request,
              "compress the KV cache; a --compression-ratio below 1 does the same by itself; at 1 "
              "only requests that ask for less are compressed");
  options.Add("compression-ratio", &c.ratio, "share of the KV cache that is kept; 1: all");
  config.shipped_profiles = ShippedProfiles();
  options.Add(
      "compression-profile", &config.compression_profile,
      "profile made by `tangram calibrate`, or a published .npz; empty: MODEL.profile.safetensors, "
      "one that came with Tangram, one in the user's cache, or made at start-up");
  DeclareCompressionSizes(options, c);
  std::vector<std::pair<std::string, Scorer>> scorers;
  for (const Scorer scorer : AllScorers()) scorers.emplace_back(ScorerName(scorer), scorer);
  options.AddWords<Scorer>("compression-scorer", &c.scorer, std::move(scorers),
                           "method that decides which tokens are kept");
  // The reference's *_cluster and *_head differ in whether heads of a group share a length: here
  // that is --page-group-size.
  std::vector<std::pair<std::string, BudgetLevel>> levels;
  for (const BudgetLevel l : AllLevels()) levels.emplace_back(LevelName(l), l);
  levels.insert(levels.end(), {{"perlayer_cluster", BudgetLevel::kPerLayer},
                               {"perlayer_head", BudgetLevel::kPerLayer},
                               {"crosslayer_cluster", BudgetLevel::kCrossLayer},
                               {"crosslayer_head", BudgetLevel::kCrossLayer}});
  const auto level = std::make_shared<std::string>();
  Options::Option& option = options.AddWords<BudgetLevel>(
      "compression-level", &c.level, std::move(levels),
      "heads among which the kept tokens are divided; not given: what suits the scorer best");
  option.set = [set = option.set, level](const Options::Values& given) {
    *level = given.back();
    return set(given);
  };
  options.Add("compression-gate-path", &config.compression_gate,
              "fastkvzip: file of gates, written by tools/convert_fastkvzip.py");
  options.Add("compression-snap-window", &c.snapkv.window,
              "snapkv: number of last tokens of a chunk whose queries are used; 0: the window");
  options.Add("compression-snap-kernel", &c.snapkv.kernel,
              "snapkv: number of neighbouring tokens whose scores are pooled; odd");
  ExpectedAttentionConfig& expected = c.expected_attention;
  options.Add("compression-ea-use-covariance", &expected.covariance,
              "expected_attention: use the covariance of queries, not their mean alone");
  options.Add("compression-ea-use-vnorm", &expected.value_norm,
              "expected_attention: weight scores by the norm of values");
  options.Add("compression-ea-n-future-positions", &expected.future_positions,
              "expected_attention: number of future positions that are averaged over");
  options.Add("compression-ea-epsilon", &expected.epsilon,
              "expected_attention: added to the attention before it is weighted");
  options.Add(
      "head-group-cluster-map", &config.head_group_map,
      "which heads share a group: auto (those of similar demand), identity (neighbours), or a JSON "
      "file: the list of all heads (layer * KV heads + head) in the order of groups");
  options.Accept("compression-retention-dump", Kind::kValue,
                 "lengths are known before a request runs: see `tangram inspect`");
  options.Check([&options, &config, level] { return Finish(options, config, *level); });
}

}  // namespace tangram::apps
