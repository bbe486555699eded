#pragma once

#include <memory>
#include <string>

#include "base/result.h"
#include "engine_options.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace tangram::apps {

// What turns text into tokens and back.
struct TextModel {
  std::shared_ptr<const Tokenizer> tokenizer;
  std::shared_ptr<const ChatTemplate> chat_template;  // null if the model has none
};

// Loads the tokenizer and the chat template of the model at `model_path` (a GGUF file or a
// folder), or those that `config` names instead. kLoad and kUnsupported as the text library says.
Result<TextModel> LoadTextModel(const std::string& model_path, const TextConfig& config);

// The tokenizer of a GGUF file or a folder.
Result<std::shared_ptr<const Tokenizer>> LoadTokenizer(const std::string& path);

}  // namespace tangram::apps
