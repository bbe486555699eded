#pragma once

#include <functional>
#include <initializer_list>
#include <span>
#include <vector>

#include "kvcache/compressor.h"
#include "kvcache/gate_scorer.h"
#include "kvcache/kv_storage.h"
#include "kvcache/layer_hook.h"

namespace tangram {

// What calibration hangs on the decoder while a text goes through it, chunk by chunk.

// Scores of one text: [L * Hkv][n].
using TextScores = std::vector<std::vector<float>>;

// Several hooks in turn.
class HookChain final : public LayerHook {
 public:
  HookChain(std::initializer_list<LayerHook*> hooks) : hooks_(hooks) {}
  void Add(LayerHook* hook) { hooks_.push_back(hook); }

  void OnInput(int layer, const TensorView& input) override {
    for (LayerHook* hook : hooks_) hook->OnInput(layer, input);
  }
  void BeforeAppend(int layer, const ops::AppendParams& next,
                    std::span<const ops::BoundarySpan> boundaries) override {
    for (LayerHook* hook : hooks_) hook->BeforeAppend(layer, next, boundaries);
  }
  void AfterAppend(int layer, const ops::AppendParams& appended) override {
    for (LayerHook* hook : hooks_) hook->AfterAppend(layer, appended);
  }

 private:
  std::vector<LayerHook*> hooks_;
};

// Keeps the attention inputs of all steps.
class InputRecorder final : public LayerHook {
 public:
  explicit InputRecorder(int num_layers) : inputs_(static_cast<size_t>(num_layers)) {}
  void OnInput(int layer, const TensorView& input) override {
    const auto* values = input.as<float>();
    auto& kept = inputs_[static_cast<size_t>(layer)];
    kept.insert(kept.end(), values, values + input.shape.count());
  }
  void BeforeAppend(int, const ops::AppendParams&, std::span<const ops::BoundarySpan>) override {}
  void AfterAppend(int, const ops::AppendParams&) override {}
  // L x [n, D]
  const std::vector<std::vector<float>>& inputs() const { return inputs_; }

 private:
  std::vector<std::vector<float>> inputs_;
};

// Sums the attention that tokens get from those behind them, beyond the window.
class ReadingHook final : public LayerHook {
 public:
  // A text of `length` tokens.
  ReadingHook(ops::Backend& backend, int num_layers, int num_kv_heads, int length, int window);
  void OnInput(int, const TensorView&) override {}
  void BeforeAppend(int, const ops::AppendParams&, std::span<const ops::BoundarySpan>) override {}
  void AfterAppend(int layer, const ops::AppendParams& appended) override;
  // What a token and head of a layer got on average from a query that came `window` tokens and more
  // behind it; 0 for the last `window` tokens.
  float Mean(int layer, int token, int head) const;

 private:
  ops::Backend& backend_;
  int heads_, length_, window_;
  int q_heads_per_kv_ = 1;
  std::vector<std::vector<float>> sums_;  // L x [n, Hkv]
};

// Scores the tokens of a step by a gate.
class GateHook final : public LayerHook {
 public:
  // Told the scores of each layer, [T, Hkv].
  using Visit = std::function<void(int layer, const TensorView& scores)>;
  GateHook(GateScorer& gate, Visit visit) : gate_(gate), visit_(std::move(visit)) {}
  void OnInput(int layer, const TensorView& input) override {
    visit_(layer, gate_.Scores(layer, input));
  }
  void BeforeAppend(int, const ops::AppendParams&, std::span<const ops::BoundarySpan>) override {}
  void AfterAppend(int, const ops::AppendParams&) override {}

 private:
  GateScorer& gate_;
  Visit visit_;
};

// Scores the tokens of each chunk as serving would by some dynamic scorers, but keeps them all. A
// step is a chunk; groups are of one head, and pages in order.
class DynamicScoreHook final : public LayerHook {
 public:
  DynamicScoreHook(const std::vector<Scorer>& scorers, const CompressionConfig& config,
                   int num_q_heads, const KvStorage& kv, ops::Backend& backend);

  void OnInput(int, const TensorView&) override {}
  void BeforeAppend(int, const ops::AppendParams&, std::span<const ops::BoundarySpan>) override {}
  void AfterAppend(int layer, const ops::AppendParams& appended) override;

  // Calls visit with the scores of the first `length` tokens, for each scorer.
  void ForScores(size_t num_heads, size_t length,
                 const std::function<void(Scorer, const TextScores&)>& visit) const;

 private:
  struct One {
    Scorer scorer;
    DynamicScorer calls;
    std::vector<float> state;   // of one layer, the one in work
    std::vector<float> scores;  // [L * Hkv, tokens]
  };

  void Score(One& one, const ops::AppendParams& appended);

  const CompressionConfig& config_;
  const KvStorage& kv_;
  std::vector<One> scorers_;
};

}  // namespace tangram
