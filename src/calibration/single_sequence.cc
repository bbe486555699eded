#include "calibration/single_sequence.h"

namespace tangram {

Result<std::unique_ptr<SingleSequence>> SingleSequence::Create(Model& model, ops::Backend& backend,
                                                               KvLayout layout,
                                                               RetentionTable table, int max_tokens,
                                                               int64_t extra_pages) {
  const int pages_per_group = (max_tokens + layout.page_size - 1) / layout.page_size;
  const int64_t num_pages = int64_t{layout.heads.num_groups()} * pages_per_group + extra_pages;
  TANGRAM_ASSIGN_OR_RETURN(
      KvStorage kv,
      KvStorage::Create(backend, std::move(layout), {num_pages, 1, max_tokens}, {&table, 1}));
  std::unique_ptr<SingleSequence> made(
      new SingleSequence(model, backend, std::move(kv), std::move(table)));
  made->pages_per_group_ = pages_per_group;
  return made;
}

// Those that the next `count` tokens come to lie in, in order. Each time anew: a pass that has a
// chunk repeated puts pages of its own there in between.
void SingleSequence::WritePages(int count, ops::StepInput& input) const {
  const ops::KvView& kv = kv_.view();
  for (int group = 0; group < kv.num_groups; ++group) {
    const int length = table_.Retained(group, boundary_) + size_ - boundary_;
    for (int i = length / kv.page_size; i * kv.page_size < length + count; ++i) {
      input.page_writes.push_back({static_cast<int32_t>(kv.Place(0, group) + i),
                                   static_cast<int32_t>(group * pages_per_group_ + i)});
    }
  }
}

TensorView SingleSequence::Append(std::span<const TokenId> tokens, LayerHook* hook,
                                  std::span<const int32_t> logit_rows) {
  builder_.Clear();
  builder_.Add({.tokens = tokens, .num_computed = size_, .boundary = boundary_}, table_);
  ops::StepInput& input = builder_.Finish();
  input.logit_rows.assign(logit_rows.begin(), logit_rows.end());
  WritePages(static_cast<int>(tokens.size()), input);
  const TensorView logits = model_.Forward(backend_.Begin(input, kv_.view(), kv_.scores()), hook);
  size_ += static_cast<int>(tokens.size());
  boundary_ = table_.Boundary(size_);
  return logits;
}

void SingleSequence::Truncate(int count) {
  TANGRAM_CHECK(boundary_ <= count && count <= size_, "from {} to {}, compressed at {}", size_,
                count, boundary_);
  size_ = count;
}

}  // namespace tangram
