#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "text/tokenizer.h"

struct TrsTemplate;

namespace tangram {

// What a template is given. JSON texts, so that numbers and the order of keys stay as sent.
struct ChatInput {
  std::string messages;   // array of {"role", "content", ...}
  std::string tools;      // array, or empty: none
  std::string documents;  // array, or empty: none
  std::string kwargs;     // object of further variables (`chat_template_kwargs`), or empty
  bool add_generation_prompt = true;
};

// A model's chat template: conversations to prompts, as transformers' apply_chat_template does.
// Immutable: every method may be called from any threads at once.
class ChatTemplate {
 public:
  // The model's own templates: chat_template.jinja and additional_chat_templates/*.jinja, else
  // `chat_template` of tokenizer_config.json, one or several by name. A `source`, if not empty
  // (--chat-template), takes their place. kNotFound if there is no template at all,
  // kUnsupported if one does not parse.
  static Result<ChatTemplate> FromFolder(const std::filesystem::path& folder,
                                         std::string_view source = {});
  static Result<ChatTemplate> FromGguf(const GgufTokenizer& metadata, std::string_view source = {});

  // This model's special tokens with another template, a request's. One that does not parse is
  // kInvalidArgument.
  Result<ChatTemplate> WithSource(std::string_view source) const;

  // The prompt, special tokens written out: encode it with add_special_tokens = false. Of several
  // templates, the one named "tool_use" is taken if there are tools, else "default". What the
  // template refuses (raise_exception) is kInvalidArgument, in the template's own words.
  Result<std::string> Render(const ChatInput& input) const;

 private:
  struct Free {
    void operator()(TrsTemplate* handle) const;
  };

  static Result<ChatTemplate> Make(std::string special_tokens,
                                   const std::map<std::string, std::string>& sources);
  Status Add(const std::string& name, std::string_view source, ErrorKind kind);

  std::string special_tokens_;  // members of a JSON object, each followed by a comma
  std::map<std::string, std::shared_ptr<TrsTemplate>> templates_;  // by name
};

}  // namespace tangram
