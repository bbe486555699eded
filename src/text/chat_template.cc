#include "text/chat_template.h"

#include <array>
#include <nlohmann/json.hpp>

#include "text/hf_files.h"
#include "text/rust_bridge.h"

namespace tangram {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kDefault = "default";
constexpr const char* kToolUse = "tool_use";

// What transformers passes to a template of its tokenizer's `special_tokens_map`.
constexpr std::array<const char*, 7> kSpecialTokens = {
    "bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"};

std::string Member(const char* name, const std::string& text) {
  return text.empty() ? "" : Json(name).dump() + ":" + Json(text).dump() + ",";
}

std::string SpecialTokenMembers(const Json& config) {
  std::string members;
  for (const char* name : kSpecialTokens) members += Member(name, SpecialTokenText(config, name));
  return members;
}

std::string SpecialTokenMembers(const GgufTokenizer& metadata) {
  const auto token = [&](std::optional<int32_t> id) {
    const bool known = id && *id >= 0 && static_cast<size_t>(*id) < metadata.tokens.size();
    return known ? metadata.tokens[static_cast<size_t>(*id)] : std::string();
  };
  return Member("bos_token", token(metadata.bos_id)) + Member("eos_token", token(metadata.eos_id));
}

using Sources = std::map<std::string, std::string>;  // templates by name

Result<Sources> SourcesFromFiles(const std::filesystem::path& folder) {
  Sources sources;
  if (std::filesystem::exists(folder / "chat_template.jinja")) {
    TANGRAM_ASSIGN_OR_RETURN(sources[kDefault], ReadFile(folder / "chat_template.jinja"));
  }
  std::error_code none;  // the folder is seldom there
  for (const auto& entry :
       std::filesystem::directory_iterator(folder / "additional_chat_templates", none)) {
    if (entry.path().extension() != ".jinja") continue;
    TANGRAM_ASSIGN_OR_RETURN(sources[entry.path().stem().string()], ReadFile(entry.path()));
  }
  return sources;
}

Sources SourcesFromConfig(const Json& config) {
  Sources sources;
  const auto field = config.find("chat_template");
  if (field == config.end()) return sources;
  if (field->is_string()) sources[kDefault] = field->get<std::string>();
  if (!field->is_array()) return sources;
  for (const Json& named : *field) {
    const std::string name = SpecialTokenText({{"name", named.value("name", Json())}}, "name");
    sources[name] = SpecialTokenText(named, "template");
  }
  return sources;
}

// `{"a":1}` -> `"a":1,`; the renderer finds what is not JSON.
std::string MembersOf(std::string_view object) {
  const size_t begin = object.find('{'), end = object.rfind('}');
  if (begin == object.npos || end == object.npos || end <= begin) return {};
  const std::string_view members = object.substr(begin + 1, end - begin - 1);
  const bool blank = members.find_first_not_of(" \t\r\n") == members.npos;
  return blank ? "" : std::string(members) + ",";
}

std::string OrNull(const std::string& json) { return json.empty() ? "null" : json; }

}  // namespace

void ChatTemplate::Free::operator()(TrsTemplate* handle) const { trs_template_free(handle); }

Status ChatTemplate::Add(const std::string& name, std::string_view source, ErrorKind kind) {
  TrsTemplate* handle = nullptr;
  std::string error;
  const int32_t code = trs_template_compile(SliceOf(source), &handle, SinkTo(&error));
  TANGRAM_RETURN_IF_ERROR(StatusOf(code, error, kind));
  templates_[name] = std::shared_ptr<TrsTemplate>(handle, Free());
  return {};
}

Result<ChatTemplate> ChatTemplate::Make(std::string special_tokens, const Sources& sources) {
  ChatTemplate made;
  made.special_tokens_ = std::move(special_tokens);
  for (const auto& [name, source] : sources) {
    TANGRAM_RETURN_IF_ERROR(made.Add(name, source, ErrorKind::kUnsupported));
  }
  if (made.templates_.empty()) {
    return MakeError(ErrorKind::kNotFound,
                     "the model has no chat template; give one with --chat-template");
  }
  return made;
}

Result<ChatTemplate> ChatTemplate::FromFolder(const std::filesystem::path& folder,
                                              std::string_view source) {
  TANGRAM_ASSIGN_OR_RETURN(const Json config, ReadTokenizerConfig(folder));
  Sources sources;
  if (!source.empty()) {
    sources[kDefault] = source;
  } else {
    TANGRAM_ASSIGN_OR_RETURN(sources, SourcesFromFiles(folder));
    if (sources.empty()) sources = SourcesFromConfig(config);
  }
  return Make(SpecialTokenMembers(config), sources);
}

Result<ChatTemplate> ChatTemplate::FromGguf(const GgufTokenizer& metadata,
                                            std::string_view source) {
  Sources sources;
  if (source.empty()) source = metadata.chat_template;
  if (!source.empty()) sources[kDefault] = source;
  return Make(SpecialTokenMembers(metadata), sources);
}

Result<ChatTemplate> ChatTemplate::WithSource(std::string_view source) const {
  ChatTemplate other;
  other.special_tokens_ = special_tokens_;
  TANGRAM_RETURN_IF_ERROR(other.Add(kDefault, source, ErrorKind::kInvalidArgument));
  return other;
}

Result<std::string> ChatTemplate::Render(const ChatInput& input) const {
  auto chosen = templates_.find(kToolUse);
  if (input.tools.empty() || chosen == templates_.end()) chosen = templates_.find(kDefault);
  if (chosen == templates_.end()) {
    return MakeError(ErrorKind::kNotFound, "the model has no chat template named \"default\"");
  }
  // Of two members with one name the later counts.
  const std::string variables =
      "{" + special_tokens_ + MembersOf(input.kwargs) + "\"messages\":" + input.messages +
      ",\"tools\":" + OrNull(input.tools) + ",\"documents\":" + OrNull(input.documents) +
      ",\"add_generation_prompt\":" + (input.add_generation_prompt ? "true" : "false") + "}";
  std::string text, error;
  const int32_t code =
      trs_template_render(chosen->second.get(), SliceOf(variables), SinkTo(&text), SinkTo(&error));
  TANGRAM_RETURN_IF_ERROR(StatusOf(code, error, ErrorKind::kInvalidArgument));
  return text;
}

}  // namespace tangram
