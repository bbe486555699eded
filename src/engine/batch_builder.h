#pragma once

#include <cstdint>
#include <vector>

#include "model/model.h"
#include "paging/compression_config.h"
#include "sched/scheduler.h"

namespace tangram {

// The arrays of one forward step, laid out as the model reads them. Kept and refilled from step to
// step, so that a step allocates nothing once the largest was seen.
class StepBatch {
 public:
  StepBatch(int num_rows, const CompressionConfig& compression)
      : num_rows_(static_cast<size_t>(num_rows)), compression_(compression) {}

  // Fills the arrays for the step that `output` describes.
  void Build(const SchedulerOutput& output, const Scheduler& scheduler);
  // The same for one sequence, whose new tokens are `tokens`.
  void Build(const ScheduledSequence& sequence, std::span<const TokenId> tokens,
             const RetentionTable& table);
  // All of ForwardInput but the KV storage and the hook. Valid until the next Build.
  ForwardInput Input(const PageTable& pages) const;

 private:
  struct Round {
    std::vector<ops::BoundarySpan> boundaries;
    std::vector<ops::SequenceSpan> sequences;
  };

  void Clear();
  void Add(const ScheduledSequence& sequence, std::span<const TokenId> tokens,
           const RetentionTable& table);
  void Finish();
  void AddSpans(const ScheduledSequence& sequence, const RetentionTable& table, int first_token);
  void AddBoundary(const RetentionTable& table, int slot, int boundary, Round& round);
  Round& RoundAt(size_t index);
  int32_t* NewRowArray();

  size_t num_rows_;  // G
  CompressionConfig compression_;
  std::vector<int32_t> tokens_, positions_, logit_rows_;
  std::vector<Round> rounds_;
  std::vector<ForwardRound> views_;  // of the first num_rounds_
  size_t num_rounds_ = 0;
  std::vector<std::vector<int32_t>> row_arrays_;  // [G] each, the first num_row_arrays_ in use
  size_t num_row_arrays_ = 0;
};

}  // namespace tangram
