#include "engine/model_runner.h"

#include <algorithm>

#include "base/log.h"
#include "engine/kv_budget.h"

namespace tangram {
namespace {

Result<DType> KvDType(const std::string& name) {
  if (name == "auto" || name == "f16" || name == "float16") return DType::kF16;
  if (name == "bf16" || name == "bfloat16") return DType::kBF16;
  if (name == "f32" || name == "float32") return DType::kF32;
  return MakeError(
      ErrorKind::kInvalidArgument,
      fmt::format("--kv-cache-dtype {} is not served here; choose auto, f16, bf16 or f32", name),
      "kv_cache_dtype");
}

Result<int> MaxModelLen(const ModelConfig& model, int wanted) {
  const int longest = model.max_position_embeddings;
  if (wanted > longest) {
    return MakeError(ErrorKind::kInvalidArgument,
                     fmt::format("--max-model-len {} is more than the {} positions that the model "
                                 "knows; set {} or less, or a rope scaling in its config",
                                 wanted, longest, longest),
                     "max_model_len");
  }
  return wanted > 0 ? wanted : longest;
}

}  // namespace

Result<std::unique_ptr<ModelRunner>> ModelRunner::Create(const EngineConfig& config) {
  std::unique_ptr<ModelRunner> runner(new ModelRunner);
  runner->backend_ = config.reference_backend ? ops::CreateReferenceBackend()
                                              : ops::CreateCpuBackend(config.num_threads);
  LoadOptions load;
  load.dummy_weights = config.dummy_weights;
  load.seed = config.seed;
  load.max_model_len = config.max_model_len;
  load.max_num_tokens = config.max_num_batched_tokens;
  load.max_logit_rows = std::min(config.max_num_seqs, config.max_num_batched_tokens);
  TANGRAM_ASSIGN_OR_RETURN(runner->model_, LoadModel(config.model_path, load, *runner->backend_));
  const ModelConfig& model = runner->model_->config();
  TANGRAM_ASSIGN_OR_RETURN(runner->max_model_len_, MaxModelLen(model, config.max_model_len));
  TANGRAM_ASSIGN_OR_RETURN(const DType dtype, KvDType(config.kv_cache_dtype));
  TANGRAM_ASSIGN_OR_RETURN(
      runner->plan_,
      PlanCompression(config, *runner->model_, runner->max_model_len_, *runner->backend_));
  KvLayout layout{dtype, config.page_size, model.head_dim, runner->plan_->heads};
  TANGRAM_ASSIGN_OR_RETURN(const int64_t pages,
                           PoolPages(config, layout, runner->max_model_len_, AvailableMemory()));
  TANGRAM_ASSIGN_OR_RETURN(auto kv, KvStorage::Create(*runner->backend_, std::move(layout), pages));
  runner->kv_ = std::make_unique<KvStorage>(std::move(kv));
  runner->batch_.emplace(runner->kv_->layout().heads.num_rows(), config.compression);
  if (config.compression.enabled()) {
    TANGRAM_ASSIGN_OR_RETURN(
        runner->compressor_,
        Compressor::Create(*runner->backend_, *runner->kv_, config.compression, runner->plan_->gate,
                           config.max_num_batched_tokens));
  }
  return runner;
}

void ModelRunner::CopyPages(const SchedulerOutput& output) {
  if (output.page_copies.empty()) return;
  copy_from_.clear();
  copy_to_.clear();
  for (const PageCopy& copy : output.page_copies) {
    copy_from_.push_back(copy.from);
    copy_to_.push_back(copy.to);
  }
  backend_->CopyPages({kv_->pool(), copy_from_, copy_to_});
  if (compressor_) compressor_->CopyPages(copy_from_, copy_to_);
}

TensorView ModelRunner::Run(const SchedulerOutput& output, const Scheduler& scheduler) {
  CopyPages(output);
  batch_->Build(output, scheduler);
  ForwardInput input = batch_->Input(scheduler.page_table());
  input.kv = kv_.get();
  input.hook = compressor_ ? &*compressor_ : nullptr;
  TensorView logits = model_->Forward(input);
  backend_->Synchronize();
  return logits;
}

}  // namespace tangram
