#include "engine/model_runner.h"

#include <algorithm>

#include "base/memory.h"
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

}  // namespace

Result<std::unique_ptr<ModelRunner>> ModelRunner::Create(const EngineConfig& config,
                                                         LoadedModel loaded,
                                                         const FoundProfile* profile) {
  std::unique_ptr<ModelRunner> runner(new ModelRunner);
  runner->backend_ = std::move(loaded.backend);
  runner->model_ = std::move(loaded.model);
  runner->max_model_len_ = loaded.max_model_len;
  TANGRAM_ASSIGN_OR_RETURN(
      runner->plan_,
      PlanCompression(config, *runner->model_, runner->max_model_len_, *runner->backend_, profile));
  TANGRAM_RETURN_IF_ERROR(runner->AllocateCache(config));
  return runner;
}

Status ModelRunner::AllocateCache(const EngineConfig& config) {
  const CompressionConfig& compression = config.compression;
  TANGRAM_ASSIGN_OR_RETURN(const DType dtype, KvDType(config.kv_cache_dtype));
  KvLayout layout{dtype, config.page_size, model_->config().head_dim, plan_->heads};
  TANGRAM_ASSIGN_OR_RETURN(num_pages_,
                           PoolPages(config, layout, max_model_len_, AvailableMemory()));
  const bool own_pass = compression.enabled() && compression.needs_reconstruction_pass();
  const int64_t pass_pages = own_pass ? ReconstructionPass::NumPages(layout, compression.chunk) : 0;
  TANGRAM_ASSIGN_OR_RETURN(
      auto kv, KvStorage::Create(*backend_, std::move(layout), num_pages_ + pass_pages));
  kv_ = std::make_unique<KvStorage>(std::move(kv));
  batch_.emplace(kv_->layout().heads.num_rows(), compression);
  if (own_pass) {
    reconstruction_pass_.emplace(*model_, *backend_, *kv_, plan_->repeat_prompt, compression.chunk,
                                 num_pages_,
                                 (max_model_len_ + config.page_size - 1) / config.page_size);
  }
  if (!compression.enabled()) return {};
  TANGRAM_ASSIGN_OR_RETURN(
      compressor_, Compressor::Create(*backend_, *kv_, compression, plan_->gate,
                                      {.max_tokens = config.max_num_batched_tokens,
                                       .max_seqs = config.max_num_seqs,
                                       .num_q_heads = model_->config().num_attention_heads}));
  timed_.emplace(*compressor_);
  return {};
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

// Of the sequences that this step compresses. Its pages are the sequence's own as far as it writes
// scores there, and no step goes beyond a boundary (SchedulerConfig::stop_at_boundaries).
void ModelRunner::RunReconstructionPasses(const SchedulerOutput& output,
                                          const Scheduler& scheduler) {
  for (const ScheduledSequence& s : output.sequences) {
    const RetentionTable& table = scheduler.table(s.table);
    const int n = s.num_computed, chunk = table.chunk();
    if (table.full() || n == s.boundary || n % chunk != 0) continue;
    reconstruction_pass_->Run(scheduler.page_table(), s.slot, table, n,
                              scheduler.Tokens(s.id).subspan(n - chunk, chunk),
                              [&](int layer) { return compressor_->ChunkScores(layer, s.slot); });
  }
}

TensorView ModelRunner::Run(const SchedulerOutput& output, const Scheduler& scheduler) {
  CopyPages(output);
  if (reconstruction_pass_) timed_->Timed([&] { RunReconstructionPasses(output, scheduler); });
  batch_->Build(output, scheduler);
  ForwardInput input = batch_->Input(scheduler.page_table());
  input.kv = kv_.get();
  input.hook = timed_ ? &*timed_ : nullptr;
  TensorView logits = model_->Forward(input);
  backend_->Synchronize();
  return logits;
}

}  // namespace tangram
