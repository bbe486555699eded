#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "ops/step.h"

namespace tangram::ops::cuda {

// The step in work, where every kernel finds it: the pointers never change, so that graphs can hold
// them. [max tokens] each.
struct StepArrays {
  int32_t* tokens;
  int32_t* positions;  // -1: nobody's
  int32_t* slots;
  int32_t* retentions;
  int32_t* num_tokens;  // of decodes: position + 1; 0: nobody's, or no decode
};

// Takes up a step: writes page ids into the table and fills the arrays, `padded` of them, of which
// those behind the step's own are nobody's. A plain launch, behind which the chain begins anew.
struct BeginStepParams {
  // From the host.
  const int32_t* tokens;  // [count]; StepInput::kLastDrawn: what the slot drew last
  const int32_t* positions;
  const int32_t* slots;
  const int32_t* retentions;
  int count, padded, num_decodes;
  const PageWrite* page_writes;  // no place twice
  int num_page_writes;
  int32_t* page_table;
  const int32_t* drawn;  // [slots]
  StepArrays arrays;
};
void RunBeginStep(const BeginStepParams& params, cudaStream_t stream);

}  // namespace tangram::ops::cuda
