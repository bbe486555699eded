#pragma once

#include <functional>
#include <initializer_list>
#include <span>
#include <vector>

#include "kvcache/dynamic_scorer.h"
#include "kvcache/gate_scorer.h"
#include "kvcache/kv_storage.h"
#include "kvcache/layer_hook.h"
#include "model/model.h"

namespace tangram {

// The hooks of calibration: what it sees while a text goes through it, chunk by chunk.

// Scores of one text: [L * Hkv][n].
using TextScores = std::vector<std::vector<float>>;

// Several hooks in turn, which only look.
class HookChain final : public LayerHook {
 public:
  HookChain(std::initializer_list<LayerHook*> hooks) : hooks_(hooks) {}
  void Add(LayerHook* hook) { hooks_.push_back(hook); }

  void OnInput(int layer, const TensorView& input) override {
    for (LayerHook* hook : hooks_) hook->OnInput(layer, input);
  }
  void AfterAppend(const ops::AppendParams& appended) override {
    for (LayerHook* hook : hooks_) hook->AfterAppend(appended);
  }

 private:
  std::vector<LayerHook*> hooks_;
};

// Keeps the attention inputs of all steps, in f32.
class InputRecorder final : public LayerHook {
 public:
  InputRecorder(ops::Backend& backend, int num_layers)
      : backend_(backend), inputs_(static_cast<size_t>(num_layers)) {}
  void OnInput(int layer, const TensorView& input) override;
  // L x [n, D]
  const std::vector<std::vector<float>>& inputs() const { return inputs_; }

 private:
  ops::Backend& backend_;
  std::vector<std::vector<float>> inputs_;
};

// Sums the attention that tokens get from those behind them, beyond the window.
class ReadingHook final : public LayerHook {
 public:
  // A text of `length` tokens. kOutOfMemory if its sums do not fit.
  static Result<ReadingHook> Create(ops::Backend& backend, int num_layers, int num_kv_heads,
                                    int length, int window);
  void AfterAppend(const ops::AppendParams& appended) override;
  // Fetches the sums, once the text is read.
  void Finish();
  // What a token and head of a layer got on average from a query that came `window` tokens and more
  // behind it; 0 for the last `window` tokens.
  float Mean(int layer, int token, int head) const;

 private:
  ReadingHook(ops::Backend& backend, int num_kv_heads, int length, int window)
      : backend_(&backend), heads_(num_kv_heads), length_(length), window_(window) {}
  size_t LayerFloats() const { return static_cast<size_t>(length_ * heads_); }

  ops::Backend* backend_;
  int heads_, length_, window_;
  int q_heads_per_kv_ = 1;
  Buffer memory_;            // [L][n][Hkv]
  std::vector<float> sums_;  // the same, once finished
};

// Scores the tokens of a step by a gate.
class GateHook final : public LayerHook {
 public:
  // Told the scores of each layer, [T, Hkv] in the backend's memory.
  using Visit = std::function<void(int layer, const TensorView& scores)>;
  GateHook(GateScorer& gate, Visit visit) : gate_(gate), visit_(std::move(visit)) {}
  void OnInput(int layer, const TensorView& input) override {
    visit_(layer, gate_.Scores(layer, input));
  }

 private:
  GateScorer& gate_;
  Visit visit_;
};

// Scores the tokens of each chunk as serving would by some dynamic scorers, but keeps them all. A
// step is a chunk; groups are of one head, and pages in order.
class DynamicScoreHook final : public LayerHook {
 public:
  static Result<DynamicScoreHook> Create(ops::Backend& backend, const std::vector<Scorer>& scorers,
                                         const CompressionConfig& config, const Model& model,
                                         const KvStorage& kv);

  void AfterAppend(const ops::AppendParams& appended) override;

  // Calls visit with the scores of the first `length` tokens, for each scorer.
  void ForScores(size_t num_heads, size_t length,
                 const std::function<void(Scorer, const TextScores&)>& visit) const;

 private:
  struct One {
    Scorer scorer;
    DynamicScorer calls;
    Buffer scores;  // [L * Hkv, tokens] f32
  };
  DynamicScoreHook(ops::Backend& backend, const KvStorage& kv) : backend_(&backend), kv_(&kv) {}

  ops::Backend* backend_;
  const KvStorage* kv_;
  std::vector<One> scorers_;
};

}  // namespace tangram
