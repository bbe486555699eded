#pragma once

#include <span>
#include <vector>

#include "base/result.h"
#include "kvcache/kv_storage.h"
#include "kvcache/layer_hook.h"
#include "ops/backend.h"
#include "paging/compression_config.h"

namespace tangram {

// The learned map of the gate scorer: score(head) = weight[layer] x + bias[layer], of the
// attention's input x.
struct GateWeights {
  std::vector<TensorView> weight;  // L x [Hkv, D] f32
  std::vector<TensorView> bias;    // L x [Hkv] f32
};

// Scores tokens and drops those that lose, layer by layer, inside a forward step. Which and how
// many rows are compressed when is decided elsewhere (paging); this moves the bytes.
class Compressor final : public LayerHook {
 public:
  // `gate` is read for the gate scorers alone. kOutOfMemory if the scores of the pool, 4 bytes for
  // each head of each token, do not fit.
  static Result<Compressor> Create(ops::Backend& backend, const KvStorage& kv,
                                   const CompressionConfig& config, GateWeights gate,
                                   int max_tokens);

  // Static scorers: computes the scores of the step's tokens, and stores them once they are
  // appended.
  void OnInput(int layer, const TensorView& input) override;
  void AfterAppend(int layer, ops::PageTableView pages,
                   std::span<const ops::SequenceSpan> sequences, const TensorView& qkv) override;
  // Scores (dynamic scorers) and compacts the sequences that cross a boundary.
  void BeforeAppend(int layer, ops::PageTableView pages,
                    std::span<const ops::BoundarySpan> sequences) override;

  // The scores of pages that are copied go with them. [pages] each.
  void CopyPages(std::span<const int32_t> from, std::span<const int32_t> to);

  const CompressionConfig& config() const { return config_; }
  const float* scores() const { return static_cast<const float*>(scores_.data()); }

 private:
  Compressor(ops::Backend& backend, const KvStorage& kv, const CompressionConfig& config);

  ops::Backend* backend_;
  const KvStorage* kv_;
  CompressionConfig config_;
  GateWeights gate_;
  Buffer scores_;       // [virtual pages, B] f32
  Buffer step_scores_;  // [T, Hkv] f32
  TensorView current_;  // of the layer in work
};

}  // namespace tangram
