#include "text/hf_files.h"

#include <fstream>
#include <iterator>

namespace tangram {
namespace {

using Json = nlohmann::ordered_json;

Result<Json> ReadObject(const std::filesystem::path& path) {
  if (!std::filesystem::exists(path)) return Json::object();
  TANGRAM_ASSIGN_OR_RETURN(const std::string text, ReadFile(path));
  Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) {
    return MakeError(ErrorKind::kUnsupported, path.string() + " is not a JSON object");
  }
  return json;
}

}  // namespace

Result<std::string> ReadFile(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::string text{std::istreambuf_iterator<char>(file), {}};
  if (!file) return MakeError(ErrorKind::kLoad, "cannot read " + path.string());
  return text;
}

Result<Json> ReadTokenizerConfig(const std::filesystem::path& folder) {
  TANGRAM_ASSIGN_OR_RETURN(Json config, ReadObject(folder / "tokenizer_config.json"));
  TANGRAM_ASSIGN_OR_RETURN(const Json older, ReadObject(folder / "special_tokens_map.json"));
  for (const auto& [name, value] : older.items()) {
    if (!config.contains(name)) config[name] = value;
  }
  return config;
}

std::string SpecialTokenText(const Json& config, const char* name) {
  const auto token = config.find(name);
  if (token == config.end()) return {};
  if (token->is_string()) return token->get<std::string>();
  if (!token->is_object()) return {};
  const auto content = token->find("content");
  return content != token->end() && content->is_string() ? content->get<std::string>() : "";
}

}  // namespace tangram
