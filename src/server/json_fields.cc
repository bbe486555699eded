#include "server/json_fields.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

namespace tangram::server {
namespace {

constexpr int kMaxDepth = 64;
constexpr int64_t kMaxValues = 4'000'000;
constexpr int kMaxMembers = 10'000;  // of one object: its members are searched one by one

// Refuses, before anything is allocated, what would cost far more memory or stack than its bytes.
Status CheckShape(std::string_view text) {
  int depth = 0;
  int64_t values = 0;
  bool in_string = false;
  std::array<int, kMaxDepth + 1> members{};  // so far, of the object at each depth
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') ++i;
      if (c == '"') in_string = false;
      continue;
    }
    if (c == '"') in_string = true;
    if (c == '[' || c == '{') ++depth;
    if (c == ']' || c == '}') depth = std::max(depth - 1, 0);
    if (c == ',' || c == '[' || c == '{') ++values;
    if (depth > kMaxDepth) {
      return MakeError(ErrorKind::kInvalidArgument,
                       fmt::format("the JSON body is nested deeper than {} levels", kMaxDepth));
    }
    if (c == '[' || c == '{') members[depth] = 0;
    if (c == ':' && ++members[depth] > kMaxMembers) {
      return MakeError(
          ErrorKind::kInvalidArgument,
          fmt::format("an object of the JSON body has more than {} members", kMaxMembers));
    }
    if (values > kMaxValues) {
      return MakeError(ErrorKind::kInvalidArgument,
                       fmt::format("the JSON body holds more than {} values", kMaxValues));
    }
  }
  return {};
}

}  // namespace

Result<Json> ParseJsonObject(std::string_view text) {
  TANGRAM_RETURN_IF_ERROR(CheckShape(text));
  try {
    Json json = Json::parse(text);
    if (json.is_object()) return json;
    return MakeError(ErrorKind::kInvalidArgument,
                     fmt::format("the body must be a JSON object, not {}", JsonTypeName(json)));
  } catch (const Json::exception& e) {
    // "[json.exception.parse_error.101] parse error at line 1, column 2: ...", without the bracket.
    std::string_view what = e.what();
    if (const size_t end = what.find("] "); end != std::string_view::npos)
      what.remove_prefix(end + 2);
    return MakeError(ErrorKind::kInvalidArgument,
                     fmt::format("the body is not valid JSON: {}", what));
  }
}

std::string DumpJson(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::string_view JsonTypeName(const Json& value) {
  switch (value.type()) {
    case Json::value_t::null:
      return "null";
    case Json::value_t::object:
      return "an object";
    case Json::value_t::array:
      return "an array";
    case Json::value_t::string:
      return "a string";
    case Json::value_t::boolean:
      return "a boolean";
    case Json::value_t::number_integer:
    case Json::value_t::number_unsigned:
      return "an integer";
    default:
      return "a number";
  }
}

JsonFields::JsonFields(const Json& object, std::string prefix)
    : object_(object), prefix_(std::move(prefix)) {}

const Json* JsonFields::Find(std::string_view name) {
  known_.emplace(name);
  const auto it = object_.find(name);
  return it == object_.end() || it->is_null() ? nullptr : &*it;
}

void JsonFields::Fail(std::string_view name, const std::string& message) {
  if (!ok()) return;
  status_ = MakeError(ErrorKind::kInvalidArgument, fmt::format("`{}{}` {}", prefix_, name, message),
                      prefix_ + std::string(name));
}

void JsonFields::Read(std::string_view name, bool* out) {
  const Json* value = Find(name);
  if (!value) return;
  if (!value->is_boolean()) {
    return Fail(name, fmt::format("must be true or false, not {}", JsonTypeName(*value)));
  }
  *out = value->get<bool>();
}

void JsonFields::Read(std::string_view name, std::string* out) {
  const Json* value = Find(name);
  if (!value) return;
  if (!value->is_string()) {
    return Fail(name, fmt::format("must be a string, not {}", JsonTypeName(*value)));
  }
  *out = value->get<std::string>();
}

std::optional<int64_t> JsonFields::Whole(std::string_view name, const Json& value, int64_t min,
                                         int64_t max) {
  if (!value.is_number()) {
    Fail(name, fmt::format("must be an integer, not {}", JsonTypeName(value)));
    return std::nullopt;
  }
  int64_t whole = 0;
  bool in_range = true;
  if (value.is_number_float()) {
    const double number = value.get<double>();
    if (number != std::floor(number)) {
      Fail(name, fmt::format("must be an integer, not {}", number));
      return std::nullopt;
    }
    in_range = number >= -9.2e18 && number <= 9.2e18;
    whole = in_range ? static_cast<int64_t>(number) : 0;
  } else if (value.is_number_unsigned()) {
    const uint64_t number = value.get<uint64_t>();
    in_range = number <= static_cast<uint64_t>(std::numeric_limits<int64_t>::max());
    whole = static_cast<int64_t>(number);
  } else {
    whole = value.get<int64_t>();
  }
  if (in_range && whole >= min && whole <= max) return whole;
  if (max >= std::numeric_limits<int32_t>::max() && in_range && whole < min) {
    Fail(name, fmt::format("must be at least {}, not {}", min, DumpJson(value)));
  } else {
    Fail(name, fmt::format("must be from {} to {}, not {}", min, max, DumpJson(value)));
  }
  return std::nullopt;
}

void JsonFields::Read(std::string_view name, int* out, int64_t min, int64_t max) {
  std::optional<int> value;
  Read(name, &value, min, max);
  if (value) *out = *value;
}

void JsonFields::Read(std::string_view name, std::optional<int>* out, int64_t min, int64_t max) {
  const Json* value = Find(name);
  if (!value) return;
  if (const auto whole = Whole(name, *value, min, max)) *out = static_cast<int>(*whole);
}

void JsonFields::Read(std::string_view name, std::optional<int64_t>* out) {
  const Json* value = Find(name);
  if (!value) return;
  if (const auto whole = Whole(name, *value, std::numeric_limits<int64_t>::min(),
                               std::numeric_limits<int64_t>::max())) {
    *out = *whole;
  }
}

void JsonFields::Read(std::string_view name, float* out, double min, double max) {
  const Json* value = Find(name);
  if (!value) return;
  if (!value->is_number()) {
    return Fail(name, fmt::format("must be a number, not {}", JsonTypeName(*value)));
  }
  const double number = value->get<double>();
  if (number >= min && number <= max) {
    *out = static_cast<float>(number);
  } else if (max == std::numeric_limits<float>::max()) {
    Fail(name, fmt::format("must be at least {}, not {}", min, number));
  } else {
    Fail(name, fmt::format("must be from {} to {}, not {}", min, max, number));
  }
}

void JsonFields::Read(std::string_view name, std::vector<int32_t>* out, int64_t min, int64_t max) {
  const Json* value = Find(name);
  if (!value) return;
  if (!value->is_array()) {
    return Fail(name, fmt::format("must be an array of integers, not {}", JsonTypeName(*value)));
  }
  out->clear();
  out->reserve(value->size());
  for (const Json& item : *value) {
    const auto whole = Whole(name, item, min, max);
    if (!whole) return;
    out->push_back(static_cast<int32_t>(*whole));
  }
}

void JsonFields::Read(std::string_view name, std::vector<std::string>* out) {
  const Json* value = Find(name);
  if (!value) return;
  out->clear();
  if (value->is_string()) {
    out->push_back(value->get<std::string>());
  } else if (value->is_array()) {
    for (const Json& item : *value) {
      if (!item.is_string()) {
        return Fail(name, fmt::format("must hold strings only, not {}", JsonTypeName(item)));
      }
      out->push_back(item.get<std::string>());
    }
  } else {
    return Fail(
        name, fmt::format("must be a string or an array of strings, not {}", JsonTypeName(*value)));
  }
  for (const std::string& item : *out) {
    if (item.empty()) return Fail(name, "must not hold an empty string");
  }
}

std::vector<std::string> JsonFields::Unknown() const {
  std::vector<std::string> unknown;
  for (const auto& [key, value] : object_.items()) {
    if (!known_.contains(key)) unknown.push_back(key);
  }
  return unknown;
}

}  // namespace tangram::server
