#pragma once

#include <memory>
#include <optional>

#include "compression/plan.h"
#include "compression/reconstruction_pass.h"
#include "engine/engine.h"
#include "engine/timed_hook.h"
#include "kvcache/compressor.h"
#include "kvcache/kv_storage.h"
#include "kvcache/step_builder.h"
#include "model/model.h"
#include "ops/backend.h"
#include "sched/scheduler_output.h"

namespace tangram {

// The backend, the model and the KV pages, and the one call that runs a step on them.
class ModelRunner {
 public:
  // Reserves the pool that `config` describes.
  static Result<std::unique_ptr<ModelRunner>> Create(const EngineConfig& config, LoadedModel loaded,
                                                     const FoundProfile* profile);

  // Queues the step. Logits [rows, V] f32 of the sequences that need sampling, in the backend's
  // memory, overwritten by the next call.
  TensorView Run(const SchedulerOutput& output);

  // Seconds of the last Run that went into scoring and compressing; 0 where the backend only
  // queues.
  double TakeCompressionSeconds() { return timed_ ? timed_->TakeSeconds() : 0; }

  ops::Backend& backend() { return *backend_; }
  const ModelConfig& model_config() const { return model_->config(); }
  const KvStorage& kv() const { return *kv_; }
  // Of the pool, for sequences.
  int64_t num_pages() const { return num_pages_; }
  int max_model_len() const { return max_model_len_; }
  const std::vector<RetentionTable>& tables() const { return plan_->tables; }
  bool HasRatio(int percent) const;
  const std::string& profile() const { return plan_->profile; }

 private:
  ModelRunner() = default;
  Status AllocateCache(const EngineConfig& config);
  void WarmUp();
  LayerHook* hook() { return timed_ ? &*timed_ : nullptr; }
  void RunReconstructionPasses(const SchedulerOutput& output, ops::StepInput& input);
  ops::StepInput& Build(const SchedulerOutput& output);

  std::unique_ptr<ops::Backend> backend_;
  std::unique_ptr<Model> model_;
  std::unique_ptr<KvStorage> kv_;
  int64_t num_pages_ = 0;
  int max_model_len_ = 0;
  std::optional<CompressionPlan> plan_;
  std::optional<Compressor> compressor_;
  std::optional<TimedHook> timed_;  // the compressor, where calls compute
  std::optional<ReconstructionPass> reconstruction_pass_;
  StepBuilder builder_;
};

}  // namespace tangram
