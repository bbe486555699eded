#include "text_model.h"

#include <filesystem>
#include <fstream>
#include <sstream>

#include "gguf_tokenizer.h"
#include "model/config.h"
#include "model/gguf.h"

namespace tangram::apps {
namespace {

// The tokenizer's metadata, or kUnsupported: a GGUF file of weights alone has none.
Result<GgufTokenizer> OpenGgufTokenizer(const std::string& path) {
  TANGRAM_ASSIGN_OR_RETURN(const GgufFile file, GgufFile::Open(path));
  GgufTokenizer made = ReadGgufTokenizer(file);
  if (made.tokens.empty()) {
    return MakeError(ErrorKind::kUnsupported,
                     path + " holds no tokenizer: name one with --tokenizer", "tokenizer");
  }
  return made;
}

// --chat-template is a file's name or the template itself.
Result<std::string> TemplateSource(const std::string& given) {
  std::error_code error;
  if (given.empty() || given.find('{') != std::string::npos) return given;
  std::ifstream file(given);
  std::stringstream text;
  if (!std::filesystem::is_regular_file(given, error) || !(text << file.rdbuf())) {
    return MakeError(ErrorKind::kInvalidArgument, "--chat-template: cannot read " + given,
                     "chat_template");
  }
  return text.str();
}

// A model without a template is served; chat requests are then refused.
Result<std::shared_ptr<const ChatTemplate>> Optional(Result<ChatTemplate> loaded) {
  if (loaded) return std::make_shared<const ChatTemplate>(std::move(*loaded));
  if (loaded.error().kind == ErrorKind::kNotFound) return std::shared_ptr<const ChatTemplate>();
  return tl::unexpected(std::move(loaded.error()));
}

}  // namespace

Result<std::shared_ptr<const Tokenizer>> LoadTokenizer(const std::string& path) {
  if (!LooksLikeGguf(path)) return Tokenizer::FromFolder(path);
  TANGRAM_ASSIGN_OR_RETURN(const GgufTokenizer source, OpenGgufTokenizer(path));
  return Tokenizer::FromGguf(source);
}

Result<TextModel> LoadTextModel(const std::string& model_path, const TextConfig& config) {
  const std::string& path = config.tokenizer.empty() ? model_path : config.tokenizer;
  TANGRAM_ASSIGN_OR_RETURN(const std::string source, TemplateSource(config.chat_template));
  TextModel made;
  if (LooksLikeGguf(path)) {
    TANGRAM_ASSIGN_OR_RETURN(const GgufTokenizer metadata, OpenGgufTokenizer(path));
    TANGRAM_ASSIGN_OR_RETURN(made.tokenizer, Tokenizer::FromGguf(metadata));
    TANGRAM_ASSIGN_OR_RETURN(made.chat_template,
                             Optional(ChatTemplate::FromGguf(metadata, source)));
    return made;
  }
  if (config.tokenizer.empty()) {  // what is no model at all is not to be told by its tokenizer
    if (auto known = ReadModelConfig(path); !known) return tl::unexpected(known.error());
  }
  TANGRAM_ASSIGN_OR_RETURN(made.tokenizer, Tokenizer::FromFolder(path));
  TANGRAM_ASSIGN_OR_RETURN(made.chat_template, Optional(ChatTemplate::FromFolder(path, source)));
  return made;
}

}  // namespace tangram::apps
