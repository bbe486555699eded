#pragma once

#include <cstdint>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace tangram::server {

// Keeps the order of keys: templates print messages as they were sent.
using Json = nlohmann::ordered_json;

// Parses a request's body: an object, of at most 64 levels and 4 million values. Everything else,
// text that is not UTF-8 included, is kInvalidArgument.
Result<Json> ParseJsonObject(std::string_view text);

// Compact JSON; bytes that are not UTF-8 become U+FFFD.
std::string DumpJson(const Json& json);

// Reads the fields of a request's object by name and type. Absent and null fields leave the target
// alone. The first thing that is wrong is kept as the error, with the field's name as `param`; what
// follows may go on reading.
class JsonFields {
 public:
  explicit JsonFields(const Json& object, std::string prefix = {});

  // The field, if it is there and not null.
  const Json* Find(std::string_view name);
  // The field is of no account; not to be reported as unknown.
  void Ignore(std::string_view name) { known_.insert(std::string(name)); }

  void Read(std::string_view name, bool* out);
  void Read(std::string_view name, std::string* out);
  // Whole numbers within [min, max]; 3.0 is one, "3" and true are not.
  void Read(std::string_view name, int* out, int64_t min, int64_t max);
  void Read(std::string_view name, std::optional<int>* out, int64_t min, int64_t max);
  void Read(std::string_view name, std::optional<int64_t>* out);
  // A finite number within [min, max].
  void Read(std::string_view name, float* out, double min,
            double max = std::numeric_limits<float>::max());
  // An array of whole numbers within [min, max].
  void Read(std::string_view name, std::vector<int32_t>* out, int64_t min, int64_t max);
  // A string or an array of strings; none may be empty.
  void Read(std::string_view name, std::vector<std::string>* out);

  void Fail(std::string_view name, const std::string& message);
  bool ok() const { return status_.has_value(); }
  Status status() const { return status_; }
  // Names that nobody has asked for.
  std::vector<std::string> Unknown() const;

 private:
  std::optional<int64_t> Whole(std::string_view name, const Json& value, int64_t min, int64_t max);

  const Json& object_;
  std::string prefix_;  // "stream_options." for an inner object
  std::set<std::string, std::less<>> known_;
  Status status_;
};

// "an integer", as people say it.
std::string_view JsonTypeName(const Json& value);

}  // namespace tangram::server
