#include "engine/engine.h"

#include <algorithm>
#include <cmath>

#include "base/options.h"
#include "compression/reconstruction_pass.h"
#include "engine/engine_loop.h"
#include "ops/create_backend.h"

namespace tangram {
namespace {

SchedulerConfig MakeSchedulerConfig(const EngineConfig& config, const ModelRunner& runner) {
  SchedulerConfig made;
  made.max_num_seqs = config.max_num_seqs;
  made.max_num_batched_tokens = config.max_num_batched_tokens;
  made.max_model_len = runner.max_model_len();
  made.page_size = config.page_size;
  made.num_groups = runner.kv().layout().heads.num_groups();
  made.num_pages = runner.num_pages();
  made.max_pages = runner.kv().view().max_pages;
  made.enable_prefix_caching = config.enable_prefix_caching;
  made.priority_policy = config.priority_policy;
  made.window = config.compression.window;
  made.lookback = config.compression.lookback();
  made.stop_at_boundaries = config.compression.needs_reconstruction_pass();
  return made;
}

Result<GenerationDefaults> Generation(const EngineConfig& config, const ModelConfig& model) {
  GenerationDefaults made;
  if (config.generation_config == "auto") {
    made = model.generation;
  } else if (config.generation_config != "vllm") {
    TANGRAM_ASSIGN_OR_RETURN(made, ReadGenerationDefaults(config.generation_config));
  }
  if (config.override_generation_config.empty()) return made;
  TANGRAM_RETURN_IF_ERROR(OverrideGenerationDefaults(config.override_generation_config,
                                                     "--override-generation-config", &made));
  return made;
}

SamplingParams DefaultSampling(const GenerationDefaults& given) {
  SamplingParams params;
  params.temperature = given.temperature.value_or(params.temperature);
  params.top_p = given.top_p.value_or(params.top_p);
  params.top_k = given.top_k.value_or(params.top_k);
  params.min_p = given.min_p.value_or(params.min_p);
  params.repetition_penalty = given.repetition_penalty.value_or(params.repetition_penalty);
  return params;
}

EngineInfo MakeInfo(const EngineConfig& config, const ModelRunner& runner,
                    const GenerationDefaults& generation) {
  const ModelConfig& model = runner.model_config();
  const KvLayout& layout = runner.kv().layout();
  EngineInfo info;
  info.vocab_size = model.vocab_size;
  info.max_model_len = runner.max_model_len();
  info.eos_token_ids = model.eos_token_ids;
  MergeTokenIds(generation.eos_token_ids, &info.eos_token_ids);
  info.num_layers = model.num_layers;
  info.num_kv_heads = model.num_key_value_heads;
  info.head_dim = model.head_dim;
  info.page_size = config.page_size;
  info.page_group_size = layout.heads.group_size();
  info.num_groups = layout.heads.num_groups();
  info.num_pages = runner.num_pages();
  info.capacity_tokens = info.num_pages / info.num_groups * info.page_size;
  info.kv_cache_dtype = DTypeName(layout.dtype);
  info.compression = config.compression;
  info.scorer = ScorerName(config.compression.scorer);
  info.level = LevelName(config.compression.level);
  info.profile = runner.profile();
  info.peak_pages_full = runner.tables().front().PeakPages(0, info.max_model_len, info.page_size);
  info.peak_pages = info.peak_pages_full;
  for (const RetentionTable& table : runner.tables()) {
    info.least_ratio = std::min(info.least_ratio, table.percent() / 100.0);
    if (table.percent() == std::lround(config.compression.ratio * 100)) {
      info.peak_pages = table.PeakPages(0, info.max_model_len, info.page_size);
    }
  }
  info.default_sampling = DefaultSampling(generation);
  info.default_max_tokens = generation.max_new_tokens.value_or(0);
  info.priority_policy = config.priority_policy;
  return info;
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

Status CheckConfig(const EngineConfig& c) {
  const auto positive = [](int64_t value, const char* flag) -> Status {
    if (value > 0) return {};
    return MakeError(ErrorKind::kInvalidArgument,
                     fmt::format("--{} is {}, and must be at least 1", flag, value), ParamOf(flag));
  };
  if (c.max_num_seqs != 0) TANGRAM_RETURN_IF_ERROR(positive(c.max_num_seqs, "max-num-seqs"));
  if (c.max_num_batched_tokens != 0) {
    TANGRAM_RETURN_IF_ERROR(positive(c.max_num_batched_tokens, "max-num-batched-tokens"));
  }
  return positive(c.page_size, "block-size");
}

}  // namespace

Result<LoadedModel> LoadForServing(EngineConfig& config) {
  TANGRAM_RETURN_IF_ERROR(CheckConfig(config));
  const bool compressed = config.compression.enabled();
  // Of a pass that has a chunk repeated: for labels where a profile is made, and for scores.
  const int pass = compressed ? config.compression.chunk + ReconstructionPass::kMaxPrompt : 0;
  LoadedModel made;
  TANGRAM_ASSIGN_OR_RETURN(made.backend,
                           ops::CreateBackend({.device = config.device,
                                               .num_threads = config.num_threads,
                                               .max_num_tokens = config.max_num_batched_tokens,
                                               .max_num_seqs = config.max_num_seqs,
                                               .batch_invariant = config.batch_invariant,
                                               .enforce_eager = config.enforce_eager,
                                               .graph_sizes = config.graph_sizes}));
  const ops::Limits limits = made.backend->limits();
  if (config.max_num_seqs == 0) config.max_num_seqs = limits.max_num_seqs;
  if (config.max_num_batched_tokens == 0) config.max_num_batched_tokens = limits.max_num_tokens;
  LoadOptions load;
  load.dummy_weights = config.dummy_weights;
  load.seed = config.seed;
  load.max_model_len = config.max_model_len;
  load.max_num_tokens = std::max(config.max_num_batched_tokens, pass);
  load.max_logit_rows = std::min(config.max_num_seqs, config.max_num_batched_tokens);
  TANGRAM_ASSIGN_OR_RETURN(made.model, LoadModel(config.model_path, load, *made.backend));
  if (const int vocabulary = made.model->config().vocab_size;
      vocabulary % limits.vocabulary_multiple != 0) {
    return MakeError(
        ErrorKind::kUnsupported,
        fmt::format("the model's vocabulary of {} tokens is no multiple of {}, which this "
                    "device needs; --device cpu serves any",
                    vocabulary, limits.vocabulary_multiple));
  }
  TANGRAM_ASSIGN_OR_RETURN(made.max_model_len,
                           MaxModelLen(made.model->config(), config.max_model_len));
  return made;
}

Result<std::unique_ptr<Engine>> Engine::Create(const EngineConfig& config, LoadedModel model,
                                               const FoundProfile* profile) {
  TANGRAM_RETURN_IF_ERROR(CheckConfig(config));
  TANGRAM_ASSIGN_OR_RETURN(auto runner, ModelRunner::Create(config, std::move(model), profile));
  auto scheduler =
      std::make_unique<Scheduler>(MakeSchedulerConfig(config, *runner), runner->tables());
  TANGRAM_ASSIGN_OR_RETURN(const GenerationDefaults generation,
                           Generation(config, runner->model_config()));
  EngineInfo info = MakeInfo(config, *runner, generation);
  return std::make_unique<EngineLoop>(config, std::move(info), std::move(runner),
                                      std::move(scheduler));
}

Result<std::unique_ptr<Engine>> Engine::Create(EngineConfig config) {
  TANGRAM_ASSIGN_OR_RETURN(LoadedModel loaded, LoadForServing(config));
  std::optional<FoundProfile> profile;
  if (config.compression.enabled()) {
    TANGRAM_ASSIGN_OR_RETURN(profile, FindProfile(config, *loaded.model));
  }
  return Create(config, std::move(loaded), profile ? &*profile : nullptr);
}

}  // namespace tangram
