#include "paging/compression_config.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <iterator>

namespace tangram {
namespace {

template <class T>
struct Named {
  T value;
  std::string_view name;
};

constexpr Named<Scorer> kScorers[] = {
    {Scorer::kGate, "gate"},
    {Scorer::kReconstruction, "reconstruction"},
    {Scorer::kFastKvzip, "fastkvzip"},
    {Scorer::kKeyDiff, "keydiff"},
    {Scorer::kExpectedAttention, "expected_attention"},
    {Scorer::kSnapKv, "snapkv"},
    {Scorer::kTova, "tova"},
    {Scorer::kStreamingLlm, "streamingllm"},
};
constexpr Named<BudgetLevel> kLevels[] = {
    {BudgetLevel::kUniform, "uniform"},
    {BudgetLevel::kPerLayer, "per-layer"},
    {BudgetLevel::kCrossLayer, "cross-layer"},
};

template <class T, size_t kCount>
std::string_view NameOf(T value, const Named<T> (&all)[kCount]) {
  const auto it = std::ranges::find(all, value, &Named<T>::value);
  return it != std::end(all) ? it->name : "?";
}

template <class T, size_t kCount>
std::optional<T> Parse(std::string_view name, const Named<T> (&all)[kCount]) {
  const auto it = std::ranges::find(all, name, &Named<T>::name);
  return it != std::end(all) ? std::optional(it->value) : std::nullopt;
}

template <class T, size_t kCount>
constexpr std::array<T, kCount> Values(const Named<T> (&all)[kCount]) {
  std::array<T, kCount> values{};
  for (size_t i = 0; i < kCount; ++i) values[i] = all[i].value;
  return values;
}

tl::unexpected<Error> Invalid(std::string message, std::string param) {
  return MakeError(ErrorKind::kInvalidArgument, std::move(message), std::move(param));
}

}  // namespace

std::string_view ScorerName(Scorer scorer) { return NameOf(scorer, kScorers); }
std::optional<Scorer> ParseScorer(std::string_view name) { return Parse(name, kScorers); }
std::span<const Scorer> AllScorers() {
  static constexpr auto kAll = Values(kScorers);
  return kAll;
}

std::string_view LevelName(BudgetLevel level) { return NameOf(level, kLevels); }
std::optional<BudgetLevel> ParseLevel(std::string_view name) { return Parse(name, kLevels); }
std::span<const BudgetLevel> AllLevels() {
  static constexpr auto kAll = Values(kLevels);
  return kAll;
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
