#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"

namespace tangram {

// An option of a config file: its name and its values (several for a list).
using ConfigEntry = std::pair<std::string, std::vector<std::string>>;

// Reads the part of YAML that options need: `name: value`, with lists as `[a, b]` or as lines
// `- a` below the name, quotes, and comments. Anything nested deeper is kInvalidArgument.
Result<std::vector<ConfigEntry>> ParseConfig(std::string_view text);

// The items of `[a, "b"]`, without spaces and quotes around them; anything else as it is.
std::vector<std::string> ParseItems(std::string_view text);

}  // namespace tangram
