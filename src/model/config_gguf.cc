#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "model/architecture.h"
#include "model/config.h"
#include "model/gguf.h"

namespace tangram {
namespace {

// Names of control tokens that end a turn; a GGUF file states only one of them as its eos.
constexpr std::string_view kEndOfTurn[] = {"<|im_end|>", "<|eot_id|>", "<|eom_id|>",
                                           "<|endoftext|>", "<|end_of_text|>"};
constexpr int64_t kControlToken = 3;  // a value of tokenizer.ggml.token_type

// Reads the keys of one architecture, keeps the first fault, and knows which keys nobody asked for.
class GgufConfigReader {
 public:
  GgufConfigReader(const GgufFile& file, const ArchitectureSpec& spec, const std::string& name)
      : file_(file), prefix_(fmt::format("{}.", spec.gguf_name)), name_(name) {}

  const Status& status() const { return status_; }

  // Above 0; without a fallback, required.
  int Size(std::string_view key, int64_t fallback = 0) {
    const int64_t value = Lookup(key, &GgufFile::Int, fallback);
    if (value <= 0 || value > 1 << 28) Refuse(key, "is missing or no size");
    return value <= 0 || value > 1 << 28 ? 1 : static_cast<int>(value);
  }
  double Number(std::string_view key, double fallback) {
    return Lookup(key, &GgufFile::Float, fallback);
  }
  std::string_view String(std::string_view key, std::string_view fallback) {
    return Lookup(key, &GgufFile::String, fallback);
  }
  void Expect(std::string_view key, int64_t wanted) {
    if (Lookup(key, &GgufFile::Int, wanted) != wanted) {
      Refuse(key, fmt::format("is not served unless it is {}", wanted));
    }
  }
  void SetAside(std::string_view key) { read_.emplace_back(key); }
  void Refuse(std::string_view key, std::string_view why) {
    if (status_) {
      status_ = MakeError(ErrorKind::kUnsupported,
                          fmt::format("{}: '{}{}' {}", name_, prefix_, key, why));
    }
  }
  // Whatever an unknown key of the architecture asks for, it would be missing from the result.
  void RefuseUnread() {
    for (const auto key : file_.keys()) {
      if (!key.starts_with(prefix_)) continue;
      const auto field = key.substr(prefix_.size());
      if (std::ranges::find(read_, field) == read_.end()) Refuse(field, "is not served");
    }
  }

 private:
  template <class T>
  T Lookup(std::string_view key, std::optional<T> (GgufFile::*get)(std::string_view) const,
           T fallback) {
    read_.emplace_back(key);
    const std::string full = prefix_ + std::string(key);
    const auto value = (file_.*get)(full);
    if (!value && file_.Has(full)) Refuse(key, "has a type that is not served");
    return value.value_or(fallback);
  }

  const GgufFile& file_;
  std::string prefix_;
  const std::string& name_;
  std::vector<std::string> read_;
  Status status_;
};

void ReadRope(GgufConfigReader& in, ModelConfig& config) {
  RopeConfig& rope = config.rope;
  rope.theta = in.Number("rope.freq_base", 10000.0);
  in.Expect("rope.dimension_count", config.head_dim);
  rope.factor = in.Number("rope.scaling.factor", in.Number("rope.scale_linear", 1.0));
  rope.original_max_position =
      in.Size("rope.scaling.original_context_length", config.max_position_embeddings);
  in.SetAside("rope.scaling.finetuned");  // says how the model was made
  const std::string_view type =
      in.String("rope.scaling.type", rope.factor == 1.0 ? "none" : "linear");
  const double attention = in.Number("rope.scaling.attn_factor", 1.0);
  rope.beta_fast = in.Number("rope.scaling.yarn_beta_fast", 32.0);
  rope.beta_slow = in.Number("rope.scaling.yarn_beta_slow", 1.0);
  if (type == "linear") {
    rope.scaling = rope.factor == 1.0 ? RopeScaling::kNone : RopeScaling::kLinear;
  } else if (type == "yarn") {
    rope.scaling = RopeScaling::kYarn;
    rope.attention_factor = attention * YarnAttentionFactor(rope.factor);
  } else if (type != "none") {
    in.Refuse("rope.scaling.type", fmt::format("'{}' is not served", type));
  }
}

void ReadTokens(const GgufFile& file, ModelConfig& config) {
  const auto id = [&](std::string_view key) {
    const int64_t value = file.Int(key).value_or(-1);
    return value >= 0 && value < config.vocab_size ? static_cast<int32_t>(value) : -1;
  };
  const auto add = [&](int32_t token) {
    auto& eos = config.eos_token_ids;
    if (token >= 0 && std::ranges::find(eos, token) == eos.end()) eos.push_back(token);
  };
  config.bos_token_id = id("tokenizer.ggml.bos_token_id");
  for (const auto key : {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id",
                         "tokenizer.ggml.eom_token_id"}) {
    add(id(key));
  }
  const auto tokens = file.StringArray("tokenizer.ggml.tokens");
  const auto types = file.IntArray("tokenizer.ggml.token_type");
  if (!tokens || !types) return;
  const size_t count = std::min({tokens->size(), types->size(), size_t(config.vocab_size)});
  for (size_t i = 0; i < count; ++i) {
    if ((*types)[i] != kControlToken) continue;
    const bool ends = std::ranges::find(kEndOfTurn, (*tokens)[i]) != std::end(kEndOfTurn);
    if (ends) add(static_cast<int32_t>(i));
  }
}

Result<const ArchitectureSpec*> FindArchitecture(const GgufFile& file, const std::string& name) {
  if (file.Int("split.count").value_or(1) > 1) {
    return MakeError(ErrorKind::kUnsupported,
                     fmt::format("{}: one part of a split GGUF; merge the parts first "
                                 "(llama-gguf-split --merge)",
                                 name));
  }
  const auto architecture = file.String("general.architecture").value_or("none");
  for (const auto* spec : Architectures()) {
    if (spec->gguf_name == architecture) return spec;
  }
  return MakeError(ErrorKind::kUnsupported,
                   fmt::format("{}: architecture '{}' is not served; these are: {}", name,
                               architecture, ServedClasses()));
}

}  // namespace

Result<ModelConfig> ReadGgufConfig(const GgufFile& file, const std::string& name) {
  TANGRAM_ASSIGN_OR_RETURN(const ArchitectureSpec* spec, FindArchitecture(file, name));
  GgufConfigReader in(file, *spec, name);
  ModelConfig config;
  config.architecture = spec->id;
  config.model_type = spec->gguf_name;
  config.attention_bias = spec->attention_bias;
  config.qk_norm = spec->qk_norm;
  config.rope_style = spec->gguf_rope_style;
  config.num_layers = in.Size("block_count");
  config.hidden_size = in.Size("embedding_length");
  config.intermediate_size = in.Size("feed_forward_length");
  config.num_attention_heads = in.Size("attention.head_count");
  config.num_key_value_heads = in.Size("attention.head_count_kv", config.num_attention_heads);
  config.head_dim =
      in.Size("attention.key_length", config.hidden_size / config.num_attention_heads);
  in.Expect("attention.value_length", config.head_dim);
  config.max_position_embeddings = in.Size("context_length");
  config.rms_norm_eps = static_cast<float>(in.Number("attention.layer_norm_rms_epsilon", 1e-6));
  in.Expect("expert_count", 0);
  in.Expect("expert_used_count", 0);
  in.Expect("attention.causal", 1);
  in.Expect("attention.sliding_window", 0);
  ReadRope(in, config);
  TANGRAM_RETURN_IF_ERROR(in.status());
  const auto embedding =
      std::ranges::find(file.tensors(), "token_embd.weight", &StoredTensor::name);
  if (embedding == file.tensors().end()) {
    return MakeError(ErrorKind::kUnsupported, fmt::format("{}: no tensor token_embd.weight", name));
  }
  config.vocab_size = static_cast<int>(
      std::min<int64_t>(embedding->view.shape[0], std::numeric_limits<int32_t>::max()));
  in.Expect("vocab_size", config.vocab_size);
  config.tie_word_embeddings = std::ranges::find(file.tensors(), "output.weight",
                                                 &StoredTensor::name) == file.tensors().end();
  in.RefuseUnread();
  TANGRAM_RETURN_IF_ERROR(in.status());
  ReadTokens(file, config);
  TANGRAM_RETURN_IF_ERROR(FinishConfig(config, name));
  return config;
}

}  // namespace tangram
