#pragma once

#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "ops/backend.h"
#include "ops/cpu/thread_pool.h"
#include "ops/cuda/attention/decode_attention.h"
#include "ops/cuda/attention/prefill.h"
#include "ops/cuda/backend/scratch.h"
#include "ops/cuda/backend/staging.h"
#include "ops/cuda/backend/views.h"

namespace tangram::ops::cuda {

// Attention of a step: the plans of its decodes, made on the device, and of its prefills, made on
// the host while earlier steps run.
class AttentionRunner {
 public:
  // For steps of up to `max_seqs` decodes.
  AttentionRunner(int max_seqs, bool invariant);

  // Shapes of the model; before the first step of a KV cache.
  void Prepare(const ops::KvView& kv);
  // Plans the prefills of the step, in all rounds and layers, and adds the plans to what is staged.
  void StagePrefills(const StepInput& input, const ops::KvView& kv, Staging& staging);
  // Launches the plan of the step's decodes.
  void PlanDecodes(const CudaStep& step, cudaStream_t stream);
  void Run(const AttentionParams& params, const Staging& staging, cudaStream_t stream);

 private:
  struct StagedPlan {
    size_t items = 0, ranges = 0, merges = 0;
    int num_items = 0, num_blocks = 0, num_merges = 0;
    size_t scratch_floats = 0;
  };

  // Thread blocks of decode attention.
  int NumRanges(int num_decodes) const;
  DecodePlanBuffers PlanBuffers(const ops::KvView& kv, int num_decodes);
  PrefillPlan Plan(const StepInput& input, const ops::KvView& kv, int round, int layer) const;
  void RunDecodes(const AttentionParams& params, cudaStream_t stream);
  void RunPrefills(const AttentionParams& params, const Staging& staging, cudaStream_t stream);

  int max_seqs_;
  SplitMode mode_;
  int num_sms_;
  ThreadPool planners_;
  Scratch entries_, ranges_, splits_, num_splits_, partial_out_, partial_max_sum_, parts_;
  std::map<const void*, KvTensorMap> maps_;  // by pool
  std::vector<StagedPlan> plans_;            // [rounds][L] of the step in work
  size_t max_scratch_floats_ = 0;
};

}  // namespace tangram::ops::cuda
