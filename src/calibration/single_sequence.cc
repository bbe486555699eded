#include "calibration/single_sequence.h"

namespace tangram {

Result<std::unique_ptr<SingleSequence>> SingleSequence::Create(
    Model& model, ops::Backend& backend, KvLayout layout, RetentionTable table,
    const CompressionConfig& compression, int max_tokens, int64_t extra_pages) {
  const int pages_per_row = (max_tokens + layout.page_size - 1) / layout.page_size;
  const int64_t num_pages = int64_t{layout.heads.num_rows()} * pages_per_row;
  TANGRAM_ASSIGN_OR_RETURN(KvStorage kv,
                           KvStorage::Create(backend, std::move(layout), num_pages + extra_pages));
  return std::unique_ptr<SingleSequence>(new SingleSequence(
      model, backend, std::move(kv), std::move(table), compression, pages_per_row));
}

SingleSequence::SingleSequence(Model& model, ops::Backend& backend, KvStorage kv,
                               RetentionTable table, const CompressionConfig& compression,
                               int pages_per_row)
    : model_(model),
      backend_(backend),
      kv_(std::move(kv)),
      table_(std::move(table)),
      pages_(1, kv_.layout().heads.num_rows(), pages_per_row),
      batch_(kv_.layout().heads.num_rows(), compression) {
  for (int row = 0; row < pages_.num_rows(); ++row) {
    for (int i = 0; i < pages_per_row; ++i) pages_.row(0, row)[i] = row * pages_per_row + i;
  }
}

TensorView SingleSequence::Append(std::span<const TokenId> tokens, LayerHook* hook,
                                  std::span<const int32_t> logit_rows) {
  const int count = static_cast<int>(tokens.size());
  batch_.Build(ScheduledSequence{.num_computed = size_, .boundary = boundary_, .num_tokens = count},
               tokens, table_);
  ForwardInput input = batch_.Input(pages_);
  input.kv = &kv_;
  input.hook = hook;
  input.logit_rows = logit_rows;
  const TensorView logits = model_.Forward(input);
  backend_.Synchronize();
  size_ += count;
  boundary_ = table_.Boundary(size_);
  return logits;
}

void SingleSequence::Truncate(int count) {
  TANGRAM_CHECK(boundary_ <= count && count <= size_, "from {} to {}, compressed at {}", size_,
                count, boundary_);
  size_ = count;
}

}  // namespace tangram
