#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "base/token_id.h"
#include "compression/find_profile.h"
#include "compression/options.h"
#include "kvcache/compressor.h"
#include "model/model.h"
#include "ops/backend.h"
#include "paging/head_group_map.h"
#include "paging/retention_table.h"

namespace tangram {

// What a server's compression is, from its options and the model's profile. Without compression:
// heads in their natural order, and the one table that keeps everything.
struct CompressionPlan {
  HeadGroupMap heads;
  std::vector<RetentionTable>
      tables;  // full, then one for each percent from the smallest profiled ratio on
  GateWeights gate;
  std::vector<TokenId>
      repeat_prompt;                // asks for a repetition, for scorers with a pass of their own
  std::vector<Buffer> gate_memory;  // what `gate` points into, unless the backend copied it
  std::string profile;              // its path and origin, for people
};

// kInvalidArgument, naming the flag, for options that do not fit each other, the model or the
// profile. `found` may be null if nothing is compressed.
Result<CompressionPlan> PlanCompression(const CompressionOptions& options, const Model& model,
                                        int max_model_len, ops::Backend& backend,
                                        const FoundProfile* found);

}  // namespace tangram
