#include "engine/model_runner.h"

#include <algorithm>

#include "engine/kv_budget.h"

namespace tangram {
namespace {

// Of several writes to a place only the last is made: where a page that a sequence begins with is
// copied at once, both are told.
void KeepLast(std::vector<ops::PageWrite>& writes) {
  std::ranges::stable_sort(writes, {}, &ops::PageWrite::place);
  const auto same = [](ops::PageWrite a, ops::PageWrite b) { return a.place == b.place; };
  writes.erase(writes.begin(), std::unique(writes.rbegin(), writes.rend(), same).base());
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
  runner->WarmUp();
  return runner;
}

Status ModelRunner::AllocateCache(const EngineConfig& config) {
  const CompressionConfig& compression = config.compression;
  const ModelConfig& model = model_->config();
  TANGRAM_ASSIGN_OR_RETURN(const DType dtype, KvDType(config.kv_cache_dtype, backend_->limits()));
  KvLayout layout{dtype,        config.page_size,      model.head_dim,
                  plan_->heads, compression.enabled(), model.num_attention_heads};
  TANGRAM_RETURN_IF_ERROR(CheckLimits(config, layout, backend_->limits()));
  // What the scorer remembers is allocated first: the pool gets a share of what is left.
  const Compressor::Limits limits{.max_tokens = config.max_num_batched_tokens,
                                  .max_seqs = config.max_num_seqs,
                                  .num_q_heads = model.num_attention_heads,
                                  .rope = model_->rope()};
  if (compression.enabled()) {
    TANGRAM_ASSIGN_OR_RETURN(
        compressor_, Compressor::Create(*backend_, layout.heads, layout.head_dim, compression,
                                        plan_->gate, limits));
  }
  TANGRAM_ASSIGN_OR_RETURN(num_pages_,
                           PoolPages(config, layout, max_model_len_, backend_->memory()));
  const bool own_pass = compression.enabled() && compression.needs_reconstruction_pass();
  const int64_t pass_pages = own_pass ? ReconstructionPass::NumPages(layout, compression.chunk) : 0;
  TANGRAM_ASSIGN_OR_RETURN(
      auto kv, KvStorage::Create(*backend_, std::move(layout),
                                 {num_pages_ + pass_pages, config.max_num_seqs, max_model_len_},
                                 plan_->tables));
  kv_ = std::make_unique<KvStorage>(std::move(kv));
  if (own_pass) {
    reconstruction_pass_.emplace(*model_, *backend_, *kv_, plan_->repeat_prompt, compression.chunk,
                                 num_pages_);
  }
  if (compressor_) {
    compressor_->Attach(*kv_);
    timed_.emplace(*compressor_);
  }
  return {};
}

// Decodes of nobody, so that steps of every size are recorded before the first request.
void ModelRunner::WarmUp() {
  for (const int size : backend_->recorded_sizes()) {
    ops::StepInput input;
    const auto count = static_cast<size_t>(size);
    input.tokens.assign(count, 0);
    input.positions.assign(count, -1);
    input.slots.assign(count, 0);
    input.retentions.assign(count, 0);
    input.num_decodes = size;
    for (int i = 0; i < size; ++i) {
      input.logit_rows.push_back(i);
      input.spans.push_back({0, 0, i, 1, -1});
    }
    input.rounds.push_back({0, size, 0, 0});
    model_->Forward(backend_->Begin(input, kv_->view(), kv_->scores()), hook());
  }
}

bool ModelRunner::HasRatio(int percent) const {
  return std::ranges::find(tables(), percent, &RetentionTable::percent) != tables().end();
}

// Of the sequences that this step compresses. Their pages are their own as far as it writes scores
// there, and no step goes beyond a boundary (SchedulerConfig::stop_at_boundaries). A sequence may
// begin at the boundary, with a cached state: so the step's pages are needed before it. Its page
// writes are repeated, as the pass leaves its own behind them; copies are not, as a later one may
// have overwritten what an earlier one copied.
void ModelRunner::RunReconstructionPasses(const SchedulerOutput& output, ops::StepInput& input) {
  for (const ChunkAtBoundary& chunk : output.chunks) {
    const ScheduledSequence& s = output.sequences[static_cast<size_t>(chunk.sequence)];
    reconstruction_pass_->Run({s.slot, s.retention, s.num_computed, chunk.tokens},
                              [&](int layer) { return compressor_->ChunkScores(layer, s.slot); },
                              {input.page_writes, input.page_copies});
    input.page_copies.clear();
  }
}

ops::StepInput& ModelRunner::Build(const SchedulerOutput& output) {
  static_assert(SchedulerOutput::kLastDrawn == ops::StepInput::kLastDrawn);
  builder_.Clear();
  std::span<const TokenId> tokens = output.tokens;
  for (const ScheduledSequence& s : output.sequences) {
    builder_.Add({.tokens = tokens.first(static_cast<size_t>(s.num_tokens)),
                  .slot = s.slot,
                  .retention = s.retention,
                  .num_computed = s.num_computed,
                  .boundary = s.boundary,
                  .decode = s.decode,
                  .last_logits = s.needs_sampling},
                 tables()[static_cast<size_t>(s.retention)]);
    tokens = tokens.subspan(static_cast<size_t>(s.num_tokens));
  }
  ops::StepInput& input = builder_.Finish();
  for (const PageWrite& write : output.page_writes) {
    input.page_writes.push_back({write.place, write.page});
  }
  if (!output.page_copies.empty()) KeepLast(input.page_writes);
  for (const PageCopy& copy : output.page_copies) input.page_copies.push_back({copy.from, copy.to});
  return input;
}

TensorView ModelRunner::Run(const SchedulerOutput& output) {
  ops::StepInput& input = Build(output);
  if (reconstruction_pass_) timed_->Timed([&] { RunReconstructionPasses(output, input); });
  const ops::Step& step = backend_->Begin(input, kv_->view(), kv_->scores());
  return model_->Forward(step, hook());
}

}  // namespace tangram
