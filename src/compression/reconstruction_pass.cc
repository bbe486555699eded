#include "compression/reconstruction_pass.h"

namespace tangram {
namespace {

int PagesPerGroup(int page_size, int chunk) {
  return (chunk + ReconstructionPass::kMaxPrompt + page_size - 1) / page_size;
}

}  // namespace

void LabelHook::AfterAppend(const ops::AppendParams& appended) {
  backend_.MaxAttention({StepQueriesOf(appended), count_, out_(appended.at.layer)});
}

int64_t ReconstructionPass::NumPages(const KvLayout& layout, int chunk) {
  return int64_t{layout.heads.num_groups()} * PagesPerGroup(layout.page_size, chunk);
}

ReconstructionPass::ReconstructionPass(Model& model, ops::Backend& backend, KvStorage& kv,
                                       std::vector<TokenId> prompt, int chunk, int64_t first_page)
    : model_(model),
      backend_(backend),
      kv_(kv),
      prompt_(std::move(prompt)),
      first_page_(first_page),
      pages_per_group_(PagesPerGroup(kv.layout().page_size, chunk)) {}

// A row ends with a whole page: chunk and retained lengths are multiples of it. Of the step's
// writes only those to the entries before it are made, so that no place is written twice.
void ReconstructionPass::WritePages(const ChunkToScore& chunk,
                                    std::span<const ops::PageWrite> writes,
                                    ops::StepInput& input) const {
  const ops::KvView& kv = kv_.view();
  const auto pages = [&](int group) {
    const int length = ops::RowLength(kv.host_retention, chunk.retention, group, chunk.boundary);
    return length / kv.page_size;
  };
  const int64_t begin = kv.Place(chunk.slot, 0), end = kv.Place(chunk.slot + 1, 0);
  for (const ops::PageWrite& write : writes) {
    if (write.place < begin || write.place >= end) continue;
    const int64_t entry = write.place - begin;
    if (entry % kv.max_pages < pages(static_cast<int>(entry / kv.max_pages))) {
      input.page_writes.push_back(write);
    }
  }
  for (int group = 0; group < kv.num_groups; ++group) {
    const int64_t place = kv.Place(chunk.slot, group) + pages(group);
    const int64_t page = first_page_ + int64_t{group} * pages_per_group_;
    for (int i = 0; i < pages_per_group_; ++i) {
      input.page_writes.push_back(
          {static_cast<int32_t>(place + i), static_cast<int32_t>(page + i)});
    }
  }
}

void ReconstructionPass::Run(const ChunkToScore& chunk, LayerScores out,
                             const PageChanges& changes) {
  tokens_.assign(prompt_.begin(), prompt_.end());
  tokens_.insert(tokens_.end(), chunk.tokens.begin(), chunk.tokens.end());
  kv_.SetScratchRetention(backend_, chunk.retention, chunk.boundary,
                          static_cast<int>(tokens_.size()));
  builder_.Clear();
  builder_.Add({.tokens = tokens_,
                .slot = chunk.slot,
                .retention = kv_.scratch_retention(),
                .num_computed = chunk.boundary},
               RetentionTable::Full(kv_.view().num_groups, kv_.view().retention.chunk));
  ops::StepInput& input = builder_.Finish();
  input.page_copies.assign(changes.copies.begin(), changes.copies.end());
  WritePages(chunk, changes.writes, input);
  LabelHook hook(backend_, static_cast<int>(chunk.tokens.size()), std::move(out));
  model_.Forward(backend_.Begin(input, kv_.view(), kv_.scores()), &hook);
}

}  // namespace tangram
