#include "model/json_reader.h"

#include <fmt/format.h>

#include <cmath>
#include <limits>

#include "model/mapped_file.h"

namespace tangram {

const nlohmann::json* JsonReader::Find(std::string_view key) const {
  const auto it = object_.find(key);
  return it == object_.end() || it->is_null() ? nullptr : &*it;
}

bool JsonReader::Flag(std::string_view key) {
  const auto* value = Find(key);
  if (value && !value->is_boolean()) Refuse(fmt::format("'{}' is neither true nor false", key));
  return value && value->is_boolean() && value->get<bool>();
}

int JsonReader::Size(std::string_view key, int fallback) {
  const auto* value = Find(key);
  if (!value) {
    if (fallback == 0) Refuse(fmt::format("'{}' is missing", key));
    return fallback == 0 ? 1 : fallback;
  }
  constexpr int kMax = 1 << 28;
  if (!value->is_number_unsigned() || value->get<uint64_t>() - 1 >= kMax) {
    Refuse(fmt::format("'{}' is not a size", key));
    return 1;
  }
  return value->get<int>();
}

std::optional<double> JsonReader::Number(std::string_view key) {
  const auto* value = Find(key);
  if (!value) return std::nullopt;
  if (!value->is_number()) {
    Refuse(fmt::format("'{}' is not a number", key));
    return std::nullopt;
  }
  return value->get<double>();
}

double JsonReader::Number(std::string_view key, double fallback) {
  return Number(key).value_or(fallback);
}

std::string JsonReader::String(std::string_view key, std::string fallback) {
  const auto* value = Find(key);
  if (!value) return fallback;
  if (!value->is_string()) {
    Refuse(fmt::format("'{}' is not a string", key));
    return fallback;
  }
  return value->get<std::string>();
}

std::vector<int32_t> JsonReader::TokenIds(std::string_view key) {
  const auto* value = Find(key);
  std::vector<int32_t> ids;
  if (!value) return ids;
  const auto add = [&](const nlohmann::json& id) {
    constexpr auto kMax = static_cast<uint64_t>(std::numeric_limits<int32_t>::max());
    if (id.is_number_unsigned() && id.get<uint64_t>() <= kMax) {
      ids.push_back(id.get<int32_t>());
    } else {
      Refuse(fmt::format("'{}' holds something other than token ids", key));
    }
  };
  if (value->is_array()) {
    for (const auto& id : *value) add(id);
  } else {
    add(*value);
  }
  return ids;
}

void JsonReader::Refuse(std::string_view what) {
  if (status_) status_ = MakeError(ErrorKind::kUnsupported, fmt::format("{}: {}", name_, what));
}

Result<nlohmann::json> ReadJsonObject(const std::string& path) {
  TANGRAM_ASSIGN_OR_RETURN(const Buffer file, MapFile(path));
  auto json = nlohmann::json::parse(AsText(file), nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) {
    return MakeError(ErrorKind::kUnsupported, fmt::format("{}: not a JSON object", path));
  }
  return json;
}

}  // namespace tangram
