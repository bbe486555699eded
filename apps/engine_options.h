#pragma once

#include <string>

#include "base/options.h"
#include "engine/engine.h"

namespace tangram::apps {

// Where the text side of a model comes from.
struct TextConfig {
  std::string tokenizer;      // file or folder; empty: the model's
  std::string chat_template;  // file or the template itself; empty: the model's
};

// The options of every command that loads a model: one for each field of `config` and `text`.
void DeclareModelOptions(Options& options, EngineConfig& config, TextConfig& text);

// Engine flags of vLLM that change nothing here, or whose place is in a later version.
void DeclareForeignEngineOptions(Options& options);

}  // namespace tangram::apps
