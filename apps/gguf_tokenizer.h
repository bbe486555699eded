#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "model/gguf.h"
#include "text/tokenizer.h"

namespace tangram::apps {

// The tokenizer metadata of a GGUF file: `text` knows no files of models, and `model` no text.
inline GgufTokenizer ReadGgufTokenizer(const GgufFile& file) {
  const auto text = [&](std::string_view key) {
    return std::string(file.String(key).value_or(""));
  };
  const auto texts = [&](std::string_view key) {
    const auto views = file.StringArray(key).value_or(std::vector<std::string_view>());
    return std::vector<std::string>(views.begin(), views.end());
  };
  const auto id = [&](std::string_view key) -> std::optional<int32_t> {
    const std::optional<int64_t> value = file.Int(key);
    const bool fits = value && *value >= 0 && *value <= INT32_MAX;
    return fits ? std::optional<int32_t>(static_cast<int32_t>(*value)) : std::nullopt;
  };
  const auto types = file.IntArray("tokenizer.ggml.token_type").value_or(std::vector<int64_t>());
  return {.model = text("tokenizer.ggml.model"),
          .pre = text("tokenizer.ggml.pre"),
          .tokens = texts("tokenizer.ggml.tokens"),
          .token_types = std::vector<int32_t>(types.begin(), types.end()),
          .merges = texts("tokenizer.ggml.merges"),
          .bos_id = id("tokenizer.ggml.bos_token_id"),
          .eos_id = id("tokenizer.ggml.eos_token_id"),
          .eot_id = id("tokenizer.ggml.eot_token_id"),
          .add_bos = file.Bool("tokenizer.ggml.add_bos_token"),
          .add_eos = file.Bool("tokenizer.ggml.add_eos_token"),
          .chat_template = text("tokenizer.chat_template")};
}

}  // namespace tangram::apps
