#pragma once

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/token_id.h"
#include "compression/profile.h"
#include "model/model.h"
#include "ops/backend.h"

namespace tangram {

struct CalibrationOptions {
  CompressionConfig compression;  // chunk, window and sinks
  std::vector<float> ratios = {0.1f, 0.2f, 0.3f, 0.5f, 0.75f};
  std::vector<Scorer> scorers = {
      Scorer::kGate,   Scorer::kReconstruction, Scorer::kKeyDiff,     Scorer::kExpectedAttention,
      Scorer::kSnapKv, Scorer::kTova,           Scorer::kStreamingLlm};
  std::string
      compression_gate;  // gates of Fast KVzip (compression/fastkvzip.h): measured too, if given
  double ridge = 1e-2;   // relative to the mean diagonal of the normal equations
  int page_size = 16;
  // Told the share that is done, [0, 1], now and then.
  std::function<void(double)> progress = [](double) {};
};

// Runs the texts (token ids, equal lengths) through the model without compression, and labels each
// token and head with the larger of the attention it gets when the model repeats its chunk
// (`repeat_prompt` are the tokens that ask for that; KVzip, arXiv 2505.23416) and of what the
// tokens behind it pay it (docs/adr/0008-what-the-gate-learns.md). Fits the gate to the labels'
// logarithm by ridge regression, and measures each scorer's demand by head and ratio: the share of
// a head's tokens among the best of all heads. Steps are chunks. Holds the attention inputs of one
// text.
Result<Profile> Calibrate(Model& model, ops::Backend& backend,
                          std::span<const std::vector<TokenId>> texts,
                          std::span<const TokenId> repeat_prompt,
                          const CalibrationOptions& options);

}  // namespace tangram
