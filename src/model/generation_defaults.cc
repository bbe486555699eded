#include "model/generation_defaults.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <filesystem>
#include <limits>

#include "base/options.h"
#include "model/json_reader.h"

namespace tangram {
namespace {

constexpr std::string_view kFields[] = {
    "temperature",       "top_p", "min_p", "top_k", "eos_token_id", "max_new_tokens",
    "repetition_penalty"};

// What a request of its own could not ask for is refused here too: the sampler trusts its input.
struct Range {
  double low, high;
};
constexpr Range kPositive = {std::numeric_limits<float>::min(), std::numeric_limits<float>::max()};

template <class T>
void ReadNumber(JsonReader* json, std::string_view key, Range range, std::optional<T>* out) {
  const std::optional<double> value = json->Number(key);
  if (!value) return;
  if (!(*value >= range.low && *value <= range.high)) {
    return json->Refuse(fmt::format("'{}' is {}, which is out of range", key, *value));
  }
  *out = static_cast<T>(*value);
}

Status Read(JsonReader json, GenerationDefaults* defaults) {
  ReadNumber(&json, "temperature", {0, kPositive.high}, &defaults->temperature);
  ReadNumber(&json, "top_p", {kPositive.low, 1}, &defaults->top_p);
  ReadNumber(&json, "min_p", {0, 1}, &defaults->min_p);
  ReadNumber(&json, "repetition_penalty", kPositive, &defaults->repetition_penalty);
  ReadNumber(&json, "top_k", {0, 1 << 30}, &defaults->top_k);
  ReadNumber(&json, "max_new_tokens", {0, 1 << 30}, &defaults->max_new_tokens);
  MergeTokenIds(json.TokenIds("eos_token_id"), &defaults->eos_token_ids);
  return json.status();
}

}  // namespace

void MergeTokenIds(const std::vector<int32_t>& from, std::vector<int32_t>* to) {
  for (const int32_t id : from) {
    if (std::ranges::find(*to, id) == to->end()) to->push_back(id);
  }
}

Result<GenerationDefaults> ReadGenerationDefaults(const std::string& path) {
  std::filesystem::path file(path);
  std::error_code ignored;
  if (std::filesystem::is_directory(file, ignored)) file /= "generation_config.json";
  TANGRAM_ASSIGN_OR_RETURN(const auto object, ReadJsonObject(file));
  GenerationDefaults defaults;
  TANGRAM_RETURN_IF_ERROR(Read(JsonReader(object, file), &defaults));
  return defaults;
}

Status OverrideGenerationDefaults(const std::string& text, const std::string& name,
                                  GenerationDefaults* defaults) {
  const auto invalid = [&](std::string message) {
    return MakeError(ErrorKind::kInvalidArgument, std::move(message), ParamOf(name));
  };
  const auto object = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!object.is_object()) return invalid(name + ": not a JSON object: " + text);
  for (const auto& [key, value] : object.items()) {
    if (std::ranges::find(kFields, key) != std::end(kFields)) continue;
    return invalid(fmt::format("{}: '{}' is no sampling default here; those are {}", name, key,
                               fmt::join(kFields, ", ")));
  }
  if (const Status status = Read(JsonReader(object, name), defaults); !status) {
    return invalid(status.error().message);
  }
  return {};
}

}  // namespace tangram
