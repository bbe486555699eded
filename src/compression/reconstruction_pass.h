#pragma once

#include <functional>
#include <vector>

#include "base/token_id.h"
#include "kvcache/kv_storage.h"
#include "kvcache/layer_hook.h"
#include "model/model.h"
#include "ops/backend.h"
#include "paging/page_table.h"
#include "paging/retention_table.h"

namespace tangram {

// Where the scores of a layer go, [count, Hkv] f32 in the backend's memory.
using LayerScores = std::function<float*(int layer)>;

// While some tokens are repeated: the largest attention that each of them gets from the step's
// queries (KVzip, arXiv 2505.23416). They are the last of each row before the step's own.
class LabelHook final : public LayerHook {
 public:
  LabelHook(ops::Backend& backend, int count, LayerScores out)
      : backend_(backend), count_(count), out_(std::move(out)) {}
  void OnInput(int, const TensorView&) override {}
  void BeforeAppend(int, const ops::AppendParams&, std::span<const ops::BoundarySpan>) override {}
  void AfterAppend(int layer, const ops::AppendParams& appended) override;

 private:
  ops::Backend& backend_;
  int count_;
  LayerScores out_;
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
  ReconstructionPass(Model& model, ops::Backend& backend, const KvStorage& kv,
                     std::vector<TokenId> prompt, int chunk, int64_t first_page,
                     int max_pages_per_row);

  // Scores the chunk that ends at `boundary`, whose tokens are `chunk`, of the sequence in `slot`,
  // which has not been compressed there.
  void Run(const PageTable& pages, int slot, const RetentionTable& table, int boundary,
           std::span<const TokenId> chunk, LayerScores out);

 private:
  void FillPages(const PageTable& pages, int slot, const RetentionTable& table, int boundary);

  Model& model_;
  ops::Backend& backend_;
  const KvStorage& kv_;
  std::vector<TokenId> prompt_;
  int64_t first_page_;
  int pages_per_row_;  // of the pass's own
  PageTable pages_;    // one slot: the sequence's pages, then the pass's
  std::vector<TokenId> tokens_;
  std::vector<int32_t> positions_, history_;
};

}  // namespace tangram
