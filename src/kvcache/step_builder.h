#pragma once

#include <span>
#include <vector>

#include "ops/step.h"
#include "paging/retention_table.h"

namespace tangram {

// Tokens of one sequence that a step processes.
struct StepTokens {
  std::span<const int32_t> tokens;  // [num_computed, num_computed + size)
  int slot = 0;
  int retention = 0;     // index of its retention table
  int num_computed = 0;  // tokens processed before
  int boundary = 0;      // what was kept is compressed up to here
  bool decode = false;
  bool last_logits = false;  // whether those of its last token are wanted
};

// Lays out a step: cuts the tokens of its sequences at their boundaries, a part for each round.
// Memory is kept from step to step.
class StepBuilder {
 public:
  void Clear();
  // Decodes come first.
  void Add(const StepTokens& part, const RetentionTable& table);
  // Completes the step. The caller may change page writes and copies, and wanted logits.
  ops::StepInput& Finish();
  ops::StepInput& input() { return input_; }

 private:
  struct RoundParts {
    std::vector<ops::SequenceSpan> spans;
    std::vector<ops::BoundarySpan> boundaries;
  };
  RoundParts& RoundAt(size_t index);

  ops::StepInput input_;
  std::vector<RoundParts> rounds_;
  size_t num_rounds_ = 0;
};

}  // namespace tangram
