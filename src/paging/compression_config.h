#pragma once

#include <optional>
#include <span>
#include <string_view>

#include "base/result.h"

namespace tangram {

// What decides which tokens of a group stay. Static scorers score a token once, when it is
// appended; dynamic ones at the boundary (design: "the central rule").
enum class Scorer {
  kGate,            // static: a linear map of the attention's input, fitted at calibration
  kReconstruction,  // static: attention received while the model repeats the chunk (KVzip)
  kFastKvzip,       // static: a published learned gate
  kKeyDiff,
  kExpectedAttention,
  kSnapKv,
  kTova,
  kStreamingLlm,
};

constexpr bool IsStatic(Scorer scorer) {
  return scorer == Scorer::kGate || scorer == Scorer::kReconstruction ||
         scorer == Scorer::kFastKvzip;
}

// Whether scores come from the attention's input alone, through a gate.
constexpr bool UsesGate(Scorer scorer) {
  return scorer == Scorer::kGate || scorer == Scorer::kFastKvzip;
}

// A scorer's name in flags, files and metrics: gate, reconstruction, fastkvzip, keydiff,
// expected_attention, snapkv, tova, streamingllm.
std::string_view ScorerName(Scorer scorer);
std::optional<Scorer> ParseScorer(std::string_view name);
std::span<const Scorer> AllScorers();

// Among which groups the kept tokens are shared out by demand.
enum class BudgetLevel { kUniform, kPerLayer, kCrossLayer };

// How snapkv pools the attention of neighbours (ops::QueryScoring has what these mean).
struct SnapKvConfig {
  int window = 0;  // queries; 0: the compression's window
  int kernel = 7;
  bool mean = false;  // as kvpress pools, instead of the largest
};

struct ExpectedAttentionConfig {
  bool covariance = true;
  bool value_norm = true;
  int future_positions = 512;
  float epsilon = 0.01f;
};

// uniform, per-layer, cross-layer.
std::string_view LevelName(BudgetLevel level);
std::optional<BudgetLevel> ParseLevel(std::string_view name);
std::span<const BudgetLevel> AllLevels();

// The level of the scorer, unless --compression-level says another. expected_attention, snapkv and
// tova score by the queries of one layer: what they give in two layers is not comparable. To
// streamingllm all heads are alike.
constexpr BudgetLevel DefaultLevel(Scorer scorer) {
  switch (scorer) {
    case Scorer::kExpectedAttention:
    case Scorer::kSnapKv:
    case Scorer::kTova:
      return BudgetLevel::kPerLayer;
    case Scorer::kStreamingLlm:
      return BudgetLevel::kUniform;
    default:
      return BudgetLevel::kCrossLayer;
  }
}

// The one set of defaults that server, demo, eval and benchmarks share.
struct CompressionConfig {
  float ratio = 1.0f;       // share of the KV cache that is kept; 1 keeps all
  bool by_request = false;  // at ratio 1 too, requests may ask for less
  int chunk = 512;          // C: boundaries are its multiples
  int window = 32;          // w: most recent tokens, always kept
  int sinks = 4;            // s: first tokens, always kept
  int floor = 0;  // F: shortest length that compression leaves; 0: s + w rounded up to a page
  Scorer scorer = Scorer::kGate;
  BudgetLevel level = DefaultLevel(Scorer::kGate);
  SnapKvConfig snapkv;
  ExpectedAttentionConfig expected_attention;

  // What the demo serves with, and what is suggested to who names no ratio.
  static constexpr float kSuggestedRatio = 0.3f;
  // Hp, heads that share a group, where --page-group-size does not say; or the largest below it
  // that divides.
  static constexpr int kGroupSize = 4;

  bool enabled() const { return by_request || ratio < 1.0f; }
  // Last tokens of a chunk whose queries the scorer must see: after a cached prefix it runs again
  // from there. Static scores, and those of the keys alone, are there already.
  int lookback() const {
    switch (scorer) {
      case Scorer::kExpectedAttention:
        return chunk;
      case Scorer::kSnapKv:
        return snapkv.window > 0 ? snapkv.window : window;
      case Scorer::kTova:
        return 1;
      default:
        return 0;
    }
  }
  // Whether the model runs again over each chunk before it is compressed, between two steps.
  bool needs_reconstruction_pass() const { return scorer == Scorer::kReconstruction; }
};

// kInvalidArgument, `param` the flag at fault, for a ratio out of range and for sizes that fit
// neither each other nor pages of page_size tokens.
Status CheckCompression(const CompressionConfig& config, int page_size);

}  // namespace tangram
