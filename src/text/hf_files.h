#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

#include "base/result.h"

namespace tangram {

// A small text file whole; one that cannot be read is kLoad.
Result<std::string> ReadFile(const std::filesystem::path& path);

// tokenizer_config.json, with what only the older special_tokens_map.json says added to it. An
// empty object if the folder has neither.
Result<nlohmann::ordered_json> ReadTokenizerConfig(const std::filesystem::path& folder);

// The text of a special token, which configs write as a string or as an object with `content`;
// empty if `config` has none of that name.
std::string SpecialTokenText(const nlohmann::ordered_json& config, const char* name);

}  // namespace tangram
