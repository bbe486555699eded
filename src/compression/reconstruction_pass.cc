#include "compression/reconstruction_pass.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace tangram {
namespace {

int PagesPerRow(int page_size, int chunk) {
  return (chunk + ReconstructionPass::kMaxPrompt + page_size - 1) / page_size;
}

}  // namespace

void LabelHook::AfterAppend(int layer, const ops::AppendParams& appended) {
  backend_.MaxAttention({StepQueriesOf(appended), count_, out_(layer)});
}

int64_t ReconstructionPass::NumPages(const KvLayout& layout, int chunk) {
  return int64_t{layout.heads.num_rows()} * PagesPerRow(layout.page_size, chunk);
}

ReconstructionPass::ReconstructionPass(Model& model, ops::Backend& backend, const KvStorage& kv,
                                       std::vector<TokenId> prompt, int chunk, int64_t first_page,
                                       int max_pages_per_row)
    : model_(model),
      backend_(backend),
      kv_(kv),
      prompt_(std::move(prompt)),
      first_page_(first_page),
      pages_per_row_(PagesPerRow(kv.layout().page_size, chunk)),
      pages_(1, kv.layout().heads.num_rows(), max_pages_per_row + pages_per_row_),
      history_(static_cast<size_t>(kv.layout().heads.num_rows())) {}

// A row ends with a whole page: chunk and retained lengths are multiples of it.
void ReconstructionPass::FillPages(const PageTable& pages, int slot, const RetentionTable& table,
                                   int boundary) {
  for (int row = 0; row < pages_.num_rows(); ++row) {
    const int length = table.Length(row, boundary);
    history_[static_cast<size_t>(row)] = length;
    const int count = length / kv_.layout().page_size;
    int32_t* ids = std::copy_n(pages.row(slot, row), count, pages_.row(0, row));
    std::iota(ids, ids + pages_per_row_,
              static_cast<int32_t>(first_page_ + int64_t{row} * pages_per_row_));
  }
}

void ReconstructionPass::Run(const PageTable& pages, int slot, const RetentionTable& table,
                             int boundary, std::span<const TokenId> chunk, LayerScores out) {
  FillPages(pages, slot, table, boundary);
  tokens_.assign(prompt_.begin(), prompt_.end());
  tokens_.insert(tokens_.end(), chunk.begin(), chunk.end());
  positions_.resize(tokens_.size());
  std::iota(positions_.begin(), positions_.end(), boundary);
  const ops::SequenceSpan span{0, 0, static_cast<int>(tokens_.size()), history_.data()};
  const ForwardRound round{{}, {&span, 1}};
  LabelHook hook(backend_, static_cast<int>(chunk.size()), std::move(out));
  ForwardInput input;
  input.tokens = tokens_;
  input.positions = positions_;
  input.rounds = {&round, 1};
  input.pages = {pages_.data(), pages_.num_rows(), pages_.max_pages_per_row()};
  input.kv = &kv_;
  input.hook = &hook;
  model_.Forward(input);
  backend_.Synchronize();
}

}  // namespace tangram
