#pragma once

#include <cstdint>
#include <vector>

#include "ops/backend.h"
#include "sched/scheduler.h"

namespace tangram {

// The arrays of one forward step, laid out as the model reads them. Kept and refilled from step to
// step, so that a step allocates nothing once the largest was seen.
struct StepBatch {
  std::vector<int32_t> tokens;           // [T]
  std::vector<int32_t> positions;        // [T]
  std::vector<ops::SequenceSpan> spans;  // [S]
  std::vector<int32_t> row_history;      // [S, G], spans point into it
  std::vector<int32_t> logit_rows;       // the last token of each sequence that samples
};

// Fills `batch` for the step that `output` describes.
void BuildBatch(const SchedulerOutput& output, const Scheduler& scheduler, StepBatch& batch);

}  // namespace tangram
