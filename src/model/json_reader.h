#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace tangram {

// Reads fields of a JSON object from a file that a user gave. The first field that is missing or of
// the wrong type becomes `status()`; reading goes on with harmless values. null counts as absent.
class JsonReader {
 public:
  JsonReader(const nlohmann::json& object, std::string name)
      : object_(object), name_(std::move(name)) {}

  const nlohmann::json& object() const { return object_; }
  const std::string& name() const { return name_; }
  const Status& status() const { return status_; }

  const nlohmann::json* Find(std::string_view key) const;
  bool Flag(std::string_view key);                   // false if absent
  int Size(std::string_view key, int fallback = 0);  // above 0; without a fallback, required
  double Number(std::string_view key, double fallback);
  std::optional<double> Number(std::string_view key);
  std::string String(std::string_view key, std::string fallback);
  std::vector<int32_t> TokenIds(
      std::string_view key);  // a number, a list of them, or absent: empty

  void Refuse(std::string_view what);  // kUnsupported

 private:
  const nlohmann::json& object_;
  std::string name_;
  Status status_;
};

// The JSON object in a file. kUnsupported if there is none in it.
Result<nlohmann::json> ReadJsonObject(const std::string& path);

}  // namespace tangram
