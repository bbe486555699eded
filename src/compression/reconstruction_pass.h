#pragma once

#include <functional>
#include <span>
#include <vector>

#include "base/token_id.h"
#include "kvcache/kv_storage.h"
#include "kvcache/layer_hook.h"
#include "kvcache/step_builder.h"
#include "model/model.h"
#include "ops/backend.h"

namespace tangram {

// Where the scores of a layer go, [count, Hkv] f32 in the backend's memory.
using LayerScores = std::function<float*(int layer)>;

// While some tokens are repeated: the largest attention that each of them gets from the step's
// queries (KVzip, arXiv 2505.23416). They are the last of each row before the step's own.
class LabelHook final : public LayerHook {
 public:
  LabelHook(ops::Backend& backend, int count, LayerScores out)
      : backend_(backend), count_(count), out_(std::move(out)) {}
  void AfterAppend(const ops::AppendParams& appended) override;

 private:
  ops::Backend& backend_;
  int count_;
  LayerScores out_;
};

// A sequence at a boundary where it has not been compressed.
struct ChunkToScore {
  int slot = 0, retention = 0, boundary = 0;
  std::vector<TokenId> tokens;  // the chunk that ends there
};

// Pages that a sequence gets with its next step, in this order.
struct PageChanges {
  std::span<const ops::PageWrite> writes;
  std::span<const ops::PageCopy> copies;
};

// The pass of its own of the reconstruction scorer: the model is asked to repeat a chunk, behind
// the rows that hold it, in pages that belong to nobody.
class ReconstructionPass {
 public:
  // Longest prompt, in tokens.
  static constexpr int kMaxPrompt = 64;
  // Pages for the repeated chunk, behind the pool's own.
  static int64_t NumPages(const KvLayout& layout, int chunk);

  // `prompt` asks for the repetition. Pages from `first_page` on are the pass's. A step of chunk +
  // kMaxPrompt tokens fits the model.
  ReconstructionPass(Model& model, ops::Backend& backend, KvStorage& kv,
                     std::vector<TokenId> prompt, int chunk, int64_t first_page);

  // Scores the chunk, once `changes` are made. The slot's entries of the page table behind the
  // sequence's own are overwritten.
  void Run(const ChunkToScore& chunk, LayerScores out, const PageChanges& changes = {});

 private:
  void WritePages(const ChunkToScore& chunk, std::span<const ops::PageWrite> writes,
                  ops::StepInput& input) const;

  Model& model_;
  ops::Backend& backend_;
  KvStorage& kv_;
  std::vector<TokenId> prompt_;
  int64_t first_page_;
  int pages_per_group_;  // of the pass's own
  std::vector<TokenId> tokens_;
  StepBuilder builder_;
};

}  // namespace tangram
