#include "text_model.h"

#include <filesystem>
#include <fstream>
#include <sstream>

#include "model/gguf.h"

namespace tangram {
namespace {

std::vector<std::string> Strings(const GgufFile& file, const char* key) {
  const auto found = file.StringArray(key);
  return found ? std::vector<std::string>(found->begin(), found->end())
               : std::vector<std::string>();
}

std::string String(const GgufFile& file, const char* key) {
  return std::string(file.String(key).value_or(""));
}

// The tokenizer's metadata, or kLoad: a GGUF file of weights alone has none.
Result<GgufTokenizer> ReadGgufTokenizer(const std::string& path) {
  TANGRAM_ASSIGN_OR_RETURN(const GgufFile file, GgufFile::Open(path));
  GgufTokenizer made;
  made.model = String(file, "tokenizer.ggml.model");
  made.pre = String(file, "tokenizer.ggml.pre");
  made.tokens = Strings(file, "tokenizer.ggml.tokens");
  made.merges = Strings(file, "tokenizer.ggml.merges");
  for (const int64_t type :
       file.IntArray("tokenizer.ggml.token_type").value_or(std::vector<int64_t>())) {
    made.token_types.push_back(static_cast<int32_t>(type));
  }
  made.bos_id = file.Int("tokenizer.ggml.bos_token_id");
  made.eos_id = file.Int("tokenizer.ggml.eos_token_id");
  made.eot_id = file.Int("tokenizer.ggml.eot_token_id");
  made.add_bos = file.Bool("tokenizer.ggml.add_bos_token");
  made.add_eos = file.Bool("tokenizer.ggml.add_eos_token");
  made.chat_template = String(file, "tokenizer.chat_template");
  if (made.tokens.empty()) {
    return MakeError(ErrorKind::kLoad, path + " holds no tokenizer: name one with --tokenizer",
                     "--tokenizer");
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
                     "--chat-template");
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
  TANGRAM_ASSIGN_OR_RETURN(const GgufTokenizer source, ReadGgufTokenizer(path));
  return Tokenizer::FromGguf(source);
}

Result<TextModel> LoadTextModel(const std::string& model_path, const TextConfig& config) {
  const std::string& path = config.tokenizer.empty() ? model_path : config.tokenizer;
  TANGRAM_ASSIGN_OR_RETURN(const std::string source, TemplateSource(config.chat_template));
  TextModel made;
  if (LooksLikeGguf(path)) {
    TANGRAM_ASSIGN_OR_RETURN(const GgufTokenizer metadata, ReadGgufTokenizer(path));
    TANGRAM_ASSIGN_OR_RETURN(made.tokenizer, Tokenizer::FromGguf(metadata));
    TANGRAM_ASSIGN_OR_RETURN(made.chat_template,
                             Optional(ChatTemplate::FromGguf(metadata, source)));
    return made;
  }
  TANGRAM_ASSIGN_OR_RETURN(made.tokenizer, Tokenizer::FromFolder(path));
  TANGRAM_ASSIGN_OR_RETURN(made.chat_template, Optional(ChatTemplate::FromFolder(path, source)));
  return made;
}

}  // namespace tangram
