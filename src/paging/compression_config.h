#pragma once

#include <string_view>

namespace tangram {

// What decides which tokens of a row stay. Static scorers score a token once, when it is appended;
// dynamic ones at the boundary (design: "the central rule").
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

// Among which rows the kept tokens are shared out by demand.
enum class BudgetLevel { kUniform, kPerLayer, kCrossLayer };

// The one set of defaults that server, demo, eval and benchmarks share.
struct CompressionConfig {
  float ratio = 1.0f;  // share of the KV cache that is kept; 1 keeps all
  int chunk = 256;     // C: boundaries are its multiples
  int window = 32;     // w: most recent tokens, always kept
  int sinks = 4;       // s: first tokens, always kept
  int floor = 0;       // F: shortest length that compression leaves; 0: s + w rounded up to a page
  Scorer scorer = Scorer::kGate;
  BudgetLevel level = BudgetLevel::kCrossLayer;

  bool enabled() const { return ratio < 1.0f; }
  // Last tokens of a chunk whose queries the scorer must see: after a cached prefix it runs again
  // from there. Static scores, and those of the keys alone, are there already.
  int lookback() const {
    if (scorer == Scorer::kExpectedAttention) return chunk;
    return scorer == Scorer::kSnapKv || scorer == Scorer::kTova ? window : 0;
  }
  // Whether the model runs again over each chunk when it is whole, between two steps.
  bool needs_own_pass() const { return scorer == Scorer::kReconstruction; }
};

}  // namespace tangram
