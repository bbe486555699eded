#include "server/json_replies.h"

#include <charconv>
#include <ctime>

#include "engine/engine.h"
#include "server/json_fields.h"
#include "text/tokenizer.h"

namespace tangram::server {
namespace {

// When this process came up: what `created` of a model means to clients that ask.
const std::time_t kStarted = std::time(nullptr);

Json Card(const ServedModel& model, const std::string& name) {
  return {{"id", name},
          {"object", "model"},
          {"created", kStarted},
          {"owned_by", "tangram"},
          {"root", model.path},
          {"parent", nullptr},
          {"max_model_len", model.engine->info().max_model_len},
          {"permission", Json::array()}};
}

}  // namespace

std::string VersionJson() { return DumpJson(Json{{"version", TANGRAM_VERSION}}); }

std::string ModelsJson(const ServedModel& model) {
  Json cards = Json::array();
  for (const std::string& name : model.names) cards.push_back(Card(model, name));
  return DumpJson(Json{{"object", "list"}, {"data", std::move(cards)}});
}

std::string ModelJson(const ServedModel& model, const std::string& name) {
  return DumpJson(Card(model, name));
}

std::string TokenizeJson(const std::vector<TokenId>& ids, bool with_strings,
                         const ServedModel& model) {
  Json strings;
  if (with_strings) {
    strings = Json::array();
    for (const TokenId id : ids) strings.push_back(model.tokenizer->TokenString(id));
  }
  return DumpJson(Json{{"count", ids.size()},
                       {"max_model_len", model.engine->info().max_model_len},
                       {"tokens", ids},
                       {"token_strs", std::move(strings)}});
}

std::string DetokenizeJson(const std::vector<TokenId>& ids, const ServedModel& model) {
  return DumpJson(Json{{"prompt", model.tokenizer->Decode(ids, false)}});
}

std::string PercentDecode(const std::string& text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    unsigned value = 0;
    const char* digits = text.data() + i + 1;
    if (text[i] == '%' && i + 2 < text.size() &&
        std::from_chars(digits, digits + 2, value, 16).ptr == digits + 2) {
      out.push_back(static_cast<char>(value));
      i += 2;
    } else {
      out.push_back(text[i]);
    }
  }
  return out;
}

}  // namespace tangram::server
