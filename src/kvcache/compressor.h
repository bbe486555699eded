#pragma once

#include <optional>
#include <span>
#include <vector>

#include "base/result.h"
#include "kvcache/dynamic_scorer.h"
#include "kvcache/gate_scorer.h"
#include "kvcache/kv_storage.h"
#include "kvcache/layer_hook.h"
#include "ops/backend.h"
#include "paging/compression_config.h"

namespace tangram {

// Scores tokens and drops those that lose, layer by layer, inside a forward step. Which and how
// many rows are compressed when is decided elsewhere (paging); this moves the bytes.
class Compressor final : public LayerHook {
 public:
  struct Limits {
    int max_tokens;  // of a step
    int max_seqs;    // slots
    int num_q_heads;
  };
  // `gate` is read for gate and fastkvzip alone. kOutOfMemory if the scores of the pool, 4 bytes
  // for each head of each token, or what the scorer remembers of each slot do not fit.
  static Result<Compressor> Create(ops::Backend& backend, const KvStorage& kv,
                                   const CompressionConfig& config, GateWeights gate,
                                   const Limits& limits);

  // Static scorers: computes the scores of the step's tokens, and stores them once they are
  // appended. Dynamic ones that look at queries: takes these up.
  void OnInput(int layer, const TensorView& input) override;
  void AfterAppend(int layer, const ops::AppendParams& appended) override;
  // Scores (dynamic scorers) and compacts the sequences that cross a boundary.
  void BeforeAppend(int layer, const ops::AppendParams& next,
                    std::span<const ops::BoundarySpan> boundaries) override;

  // Where the scores of a slot's chunk are put, [C, Hkv] f32, by whoever makes them in a pass of
  // its own (CompressionConfig::needs_reconstruction_pass), before the step that compresses the
  // chunk.
  float* ChunkScores(int layer, int slot);
  // The scores of pages that are copied go with them. [pages] each.
  void CopyPages(std::span<const int32_t> from, std::span<const int32_t> to);

  const CompressionConfig& config() const { return config_; }
  const float* scores() const { return static_cast<const float*>(scores_.data()); }

 private:
  Compressor(ops::Backend& backend, const KvStorage& kv, const CompressionConfig& config,
             const Limits& limits);
  float* State(int layer) const;
  int64_t StateFloats() const;
  void StoreChunkScores(int layer, const ops::AppendParams& next,
                        const ops::BoundarySpan& boundary);

  ops::Backend* backend_;
  const KvStorage* kv_;
  CompressionConfig config_;
  Limits limits_;
  std::optional<DynamicScorer> dynamic_;
  std::optional<GateScorer> gate_;
  Buffer scores_;       // [virtual pages, B] f32
  Buffer state_;        // [L, slots, StateFloats()]: what a chunk left so far, or its scores
  TensorView current_;  // of the layer in work
  std::vector<int32_t> history_;  // [G]
};

}  // namespace tangram
