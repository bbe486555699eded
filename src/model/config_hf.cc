#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#include "base/log.h"
#include "model/architecture.h"
#include "model/config.h"
#include "model/json_reader.h"

namespace tangram {
namespace {

// Fields that, where they say anything, ask for another computation than the decoder's.
constexpr std::string_view kRefusedFields[] = {
    "quantization_config",
    "compression_config",
    "num_experts",
    "num_local_experts",
    "n_routed_experts",
    "vision_config",
    "text_config",
    "final_logit_softcapping",
    "attn_logit_softcapping",
    "logit_scale",
    "logits_scaling",
    "embedding_multiplier",
    "residual_multiplier",
    "attention_multiplier",
    "query_pre_attn_scalar",
    "no_rope_layers",
    "clip_qkv",
    "use_mrope",
    "rope_interleaved",
    "cross_attention_layers",
};

constexpr std::string_view kRopeFields[] = {
    "type",
    "rope_type",
    "rope_theta",
    "factor",
    "original_max_position_embeddings",
    "low_freq_factor",
    "high_freq_factor",
    "beta_fast",
    "beta_slow",
    "attention_factor",
    "mscale",
    "mscale_all_dim",
    "partial_rotary_factor",
    "truncate",
    "finetuned",
};

bool SaysSomething(const nlohmann::json& value) {
  return !value.is_null() && value != false && value != 0 && !value.empty();
}

const ArchitectureSpec* FindArchitecture(JsonReader& json) {
  const auto* list = json.Find("architectures");
  std::string name = "none";
  if (list && list->is_array() && list->size() == 1 && list->front().is_string()) {
    name = list->front().get<std::string>();
  }
  for (const auto* spec : Architectures()) {
    if (spec->hf_class == name) return spec;
  }
  json.Refuse(fmt::format("architecture {} is not served; these are: {}", name, ServedClasses()));
  return &kLlama;
}

void RefuseWhatWouldChangeTheResult(JsonReader& json, const ArchitectureSpec& spec) {
  for (const auto field : kRefusedFields) {
    const auto* value = json.Find(field);
    if (value && SaysSomething(*value)) json.Refuse(fmt::format("'{}' is not served", field));
  }
  for (const auto flag : spec.refused_flags) {
    if (json.Flag(flag)) json.Refuse(fmt::format("'{}' is not served", flag));
  }
  const std::string act = json.String("hidden_act", "silu");
  if (act != "silu" && act != "swish") {
    json.Refuse(fmt::format("hidden_act '{}' is not served; silu is", act));
  }
  if (json.Number("partial_rotary_factor", 1.0) != 1.0) {
    json.Refuse("'partial_rotary_factor' is not served");
  }
  const auto* types = json.Find("layer_types");
  if (types && (!types->is_array() || std::ranges::any_of(*types, [](const auto& type) {
        return type != "full_attention";
      }))) {
    json.Refuse("'layer_types' other than full_attention are not served");
  }
  if (spec.can_slide && json.Flag("use_sliding_window") && json.Find("sliding_window") &&
      json.Number("max_window_layers", 0) < json.Size("num_hidden_layers")) {
    json.Refuse("'use_sliding_window' is not served");
  }
  if (json.Find("dual_chunk_attention_config")) {
    LogInfo("{}: dual_chunk_attention_config is set aside; attention is dense at every length",
            json.name());
  }
}

void ReadYarn(JsonReader& json, const ModelConfig& config, RopeConfig& rope) {
  if (!json.Find("factor") && rope.original_max_position > 0) {
    rope.factor = static_cast<double>(config.max_position_embeddings) / rope.original_max_position;
  }
  rope.beta_fast = json.Number("beta_fast", 32.0);
  rope.beta_slow = json.Number("beta_slow", 1.0);
  const double mscale = json.Number("mscale", 0.0), all_dim = json.Number("mscale_all_dim", 0.0);
  rope.attention_factor = YarnAttentionFactor(rope.factor);
  if (mscale != 0 && all_dim != 0) {
    rope.attention_factor =
        YarnAttentionFactor(rope.factor, mscale) / YarnAttentionFactor(rope.factor, all_dim);
  }
  rope.attention_factor = json.Number("attention_factor", rope.attention_factor);
  if (json.Find("truncate") && !json.Flag("truncate")) {
    json.Refuse("yarn without 'truncate' is not served");
  }
}

// `json` is the rope_parameters of newer configs, or the rope_scaling of older ones.
void ReadRopeScaling(JsonReader& json, const ModelConfig& config, RopeConfig& rope) {
  for (const auto& [key, value] : json.object().items()) {
    if (std::ranges::find(kRopeFields, key) == std::end(kRopeFields)) {
      json.Refuse(fmt::format("'{}' is not served", key));
    }
  }
  if (json.Number("partial_rotary_factor", 1.0) != 1.0) {
    json.Refuse("'partial_rotary_factor' is not served");
  }
  rope.theta = json.Number("rope_theta", rope.theta);
  const std::string type = json.String("rope_type", json.String("type", "default"));
  if (type == "default") return;
  rope.factor = json.Number("factor", 1.0);
  rope.original_max_position =
      json.Size("original_max_position_embeddings", config.max_position_embeddings);
  if (type == "linear") {
    rope.scaling = RopeScaling::kLinear;
  } else if (type == "dynamic") {
    rope.scaling = RopeScaling::kDynamic;
    rope.original_max_position = config.max_position_embeddings;
  } else if (type == "llama3") {
    rope.scaling = RopeScaling::kLlama3;
    rope.low_freq_factor = json.Number("low_freq_factor", 1.0);
    rope.high_freq_factor = json.Number("high_freq_factor", 4.0);
    if (!(rope.high_freq_factor > rope.low_freq_factor)) {
      json.Refuse("'high_freq_factor' must be above 'low_freq_factor'");
    }
  } else if (type == "yarn") {
    rope.scaling = RopeScaling::kYarn;
    ReadYarn(json, config, rope);
  } else {
    json.Refuse(fmt::format(
        "rope type '{}' is not served; default, linear, dynamic, yarn and llama3 are", type));
  }
}

Status ReadRope(JsonReader& json, ModelConfig& config) {
  config.rope.theta = json.Number("rope_theta", 10000.0);
  for (const auto key : {"rope_scaling", "rope_parameters"}) {
    const auto* value = json.Find(key);
    if (!value || value->empty()) continue;
    if (!value->is_object()) {
      json.Refuse(fmt::format("'{}' is not an object", key));
      break;
    }
    JsonReader rope(*value, fmt::format("{}: {}", json.name(), key));
    ReadRopeScaling(rope, config, config.rope);
    return rope.status();
  }
  return {};
}

Result<ModelConfig> ReadConfigJson(JsonReader& json) {
  const ArchitectureSpec& spec = *FindArchitecture(json);
  TANGRAM_RETURN_IF_ERROR(json.status());  // first: the other fields mean nothing elsewhere
  RefuseWhatWouldChangeTheResult(json, spec);
  ModelConfig config;
  config.architecture = spec.id;
  config.model_type = json.String("model_type", std::string(spec.gguf_name));
  config.attention_bias = spec.attention_bias;
  config.qk_norm = spec.qk_norm;
  config.rope_style = ops::RopeStyle::kHalf;
  config.num_layers = json.Size("num_hidden_layers");
  config.hidden_size = json.Size("hidden_size");
  config.intermediate_size = json.Size("intermediate_size");
  config.num_attention_heads = json.Size("num_attention_heads");
  config.num_key_value_heads = json.Size("num_key_value_heads", config.num_attention_heads);
  config.head_dim = json.Size("head_dim", spec.default_head_dim > 0
                                              ? spec.default_head_dim
                                              : config.hidden_size / config.num_attention_heads);
  config.vocab_size = json.Size("vocab_size");
  config.max_position_embeddings = json.Size("max_position_embeddings");
  config.rms_norm_eps = static_cast<float>(json.Number("rms_norm_eps", 1e-6));
  config.tie_word_embeddings = json.Flag("tie_word_embeddings");
  const auto bos = json.TokenIds("bos_token_id");
  if (!bos.empty()) config.bos_token_id = bos.front();
  config.eos_token_ids = json.TokenIds("eos_token_id");
  TANGRAM_RETURN_IF_ERROR(ReadRope(json, config));
  TANGRAM_RETURN_IF_ERROR(json.status());
  return config;
}

}  // namespace

Result<ModelConfig> ReadHfConfig(const std::string& folder) {
  const std::filesystem::path base(folder);
  const std::string path = base / "config.json";
  TANGRAM_ASSIGN_OR_RETURN(const auto object, ReadJsonObject(path));
  JsonReader json(object, path);
  TANGRAM_ASSIGN_OR_RETURN(ModelConfig config, ReadConfigJson(json));
  const std::string generation = base / "generation_config.json";
  std::error_code ignored;
  if (std::filesystem::exists(generation, ignored)) {
    TANGRAM_ASSIGN_OR_RETURN(config.generation, ReadGenerationDefaults(generation));
    MergeTokenIds(config.generation.eos_token_ids, &config.eos_token_ids);
  }
  TANGRAM_RETURN_IF_ERROR(FinishConfig(config, path));
  return config;
}

}  // namespace tangram
