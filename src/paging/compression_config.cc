#include "paging/compression_config.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <utility>

namespace tangram {
namespace {

constexpr std::pair<Scorer, std::string_view> kScorerNames[] = {
    {Scorer::kGate, "gate"},
    {Scorer::kReconstruction, "reconstruction"},
    {Scorer::kFastKvzip, "fastkvzip"},
    {Scorer::kKeyDiff, "keydiff"},
    {Scorer::kExpectedAttention, "expected_attention"},
    {Scorer::kSnapKv, "snapkv"},
    {Scorer::kTova, "tova"},
    {Scorer::kStreamingLlm, "streamingllm"},
};

tl::unexpected<Error> Invalid(std::string message, std::string param) {
  return MakeError(ErrorKind::kInvalidArgument, std::move(message), std::move(param));
}

}  // namespace

std::string_view ScorerName(Scorer scorer) {
  for (const auto& [value, name] : kScorerNames) {
    if (value == scorer) return name;
  }
  return "?";
}

std::optional<Scorer> ParseScorer(std::string_view name) {
  for (const auto& [value, known] : kScorerNames) {
    if (known == name) return value;
  }
  return std::nullopt;
}

std::span<const Scorer> AllScorers() {
  static constexpr auto kAll = [] {
    std::array<Scorer, std::size(kScorerNames)> all{};
    for (size_t i = 0; i < all.size(); ++i) all[i] = kScorerNames[i].first;
    return all;
  }();
  return kAll;
}

std::string_view LevelName(BudgetLevel level) {
  switch (level) {
    case BudgetLevel::kUniform:
      return "uniform";
    case BudgetLevel::kPerLayer:
      return "per-layer";
    case BudgetLevel::kCrossLayer:
      return "cross-layer";
  }
  return "?";
}

Status CheckCompression(const CompressionConfig& c, int page_size) {
  if (!(c.ratio > 0 && c.ratio <= 1)) {
    return Invalid(fmt::format("--compression-ratio {} is not in (0, 1]: it is the share of the KV "
                               "cache that is kept, e.g. {}",
                               c.ratio, CompressionConfig::kSuggestedRatio),
                   "compression_ratio");
  }
  constexpr int kLargestChunk = 1 << 22;
  if (c.chunk > kLargestChunk) {
    return Invalid(fmt::format("--compression-chunk-size {} is above {}", c.chunk, kLargestChunk),
                   "compression_chunk_size");
  }
  if (c.chunk <= 0 || c.chunk % page_size != 0) {
    const int64_t pages = (int64_t{std::max(c.chunk, 1)} + page_size - 1) / page_size;
    return Invalid(
        fmt::format("--compression-chunk-size {} is not a multiple of the page, {} tokens; {} is",
                    c.chunk, page_size, pages * page_size),
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
  if (c.sinks < 0 || c.floor < 0) {
    return Invalid("--compression-n-sink-tokens and --compression-floor-min must not be negative",
                   c.sinks < 0 ? "compression_n_sink_tokens" : "compression_floor_min");
  }
  // 64-bit: a floor of 2^31 - 1 is a number too.
  const int64_t floor = std::max(int64_t{c.floor}, int64_t{c.sinks} + c.window);
  if (floor > c.chunk) {
    return Invalid(
        fmt::format("sinks, window and floor keep {} tokens of the first chunk's {}; lower "
                    "--compression-floor-min, or raise --compression-chunk-size",
                    floor, c.chunk),
        c.floor > c.chunk ? "compression_floor_min" : "compression_n_sink_tokens");
  }
  return {};
}

}  // namespace tangram
