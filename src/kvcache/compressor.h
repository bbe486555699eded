#pragma once

#include <optional>

#include "base/result.h"
#include "kvcache/dynamic_scorer.h"
#include "kvcache/gate_scorer.h"
#include "kvcache/kv_storage.h"
#include "kvcache/layer_hook.h"
#include "ops/backend.h"
#include "paging/compression_config.h"

namespace tangram {

// Scores tokens and drops those that lose, around and inside a forward step. Which and how many
// groups are compressed when is decided elsewhere (paging); this moves the bytes.
class Compressor final : public LayerHook {
 public:
  struct Limits {
    int max_tokens;  // of a step
    int max_seqs;    // slots
    int num_q_heads;
    ops::RopeView rope;
  };
  // `gate` is read for gate and fastkvzip alone. kOutOfMemory if what the scorer remembers of each
  // slot does not fit.
  static Result<Compressor> Create(ops::Backend& backend, const HeadGroupMap& heads, int head_dim,
                                   const CompressionConfig& config, GateWeights gate,
                                   const Limits& limits);
  // The pages that it works on, which have scores: before the first step.
  void Attach(const KvStorage& kv) { pool_scores_ = kv.scores(); }

  // Compresses what stands at a boundary when the step begins, in all layers.
  void BeforeStep(const ops::Step& step) override;
  // Static scorers: computes the scores of the step's tokens, which are stored as they are
  // appended.
  void OnInput(int layer, const TensorView& input) override;
  // Compresses what comes to a boundary inside the step.
  void BeforeAppend(ops::AppendParams& next) override;
  // Dynamic scorers that look at queries take these up.
  void AfterAppend(const ops::AppendParams& appended) override;

  // Where the scores of a slot's chunk are put, [C, Hkv] f32, by whoever makes them in a pass of
  // its own (CompressionConfig::needs_reconstruction_pass), before the step that compresses the
  // chunk.
  float* ChunkScores(int layer, int slot) const;

  const CompressionConfig& config() const { return config_; }

 private:
  Compressor(ops::Backend& backend, const HeadGroupMap& heads, const CompressionConfig& config,
             const Limits& limits)
      : backend_(&backend),
        num_layers_(heads.num_layers()),
        num_kv_heads_(heads.num_kv_heads()),
        config_(config),
        limits_(limits) {}
  void Compress(const ops::Step& step, int round, int first_layer, int num_layers);
  void AppendChunkScores(const ops::BoundaryRange& at);

  ops::Backend* backend_;
  int num_layers_, num_kv_heads_;
  float* pool_scores_ = nullptr;
  CompressionConfig config_;
  Limits limits_;
  std::optional<DynamicScorer> dynamic_;
  std::optional<GateScorer> gate_;
  Buffer chunk_scores_;  // [L][slots][C][Hkv], of scorers with a pass of their own
  TensorView current_;   // of the layer in work
};

}  // namespace tangram
