#pragma once

#include <memory>
#include <span>

#include "engine/batch_builder.h"
#include "kvcache/kv_storage.h"
#include "model/model.h"
#include "paging/page_table.h"

namespace tangram {

// One sequence through a model, without scheduling: what calibration and evaluation run on.
class SingleSequence {
 public:
  // `table` decides lengths; its rows are `heads`'. `extra_pages` of the pool, behind the
  // sequence's own, are the caller's. kOutOfMemory if max_tokens whole tokens do not fit.
  static Result<std::unique_ptr<SingleSequence>> Create(Model& model, ops::Backend& backend,
                                                        KvLayout layout, RetentionTable table,
                                                        const CompressionConfig& compression,
                                                        int max_tokens, int64_t extra_pages = 0);

  // Runs the next tokens as one step. Logits [rows, V] of the tokens `logit_rows` of this step,
  // until the next call.
  TensorView Append(std::span<const TokenId> tokens, LayerHook* hook,
                    std::span<const int32_t> logit_rows);
  // Forgets the last tokens, back to the first `count`; not across the boundary that
  // compressed them.
  void Truncate(int count);
  int size() const { return size_; }
  const KvStorage& kv() const { return kv_; }
  const PageTable& pages() const { return pages_; }  // one slot
  const RetentionTable& table() const { return table_; }
  // Whether the next Append begins with a compression.
  bool at_boundary() const { return table_.Boundary(size_ + 1) > boundary_; }
  // Tokens that the row holds now.
  int RowLength(int row) const { return table_.Retained(row, boundary_) + size_ - boundary_; }

 private:
  SingleSequence(Model& model, ops::Backend& backend, KvStorage kv, RetentionTable table,
                 const CompressionConfig& compression, int pages_per_row);

  Model& model_;
  ops::Backend& backend_;
  KvStorage kv_;
  RetentionTable table_;
  PageTable pages_;
  StepBatch batch_;
  int size_ = 0;
  int boundary_ = 0;  // compressed up to here
};

}  // namespace tangram
