#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"

namespace tangram {

// What requests leave open, as a generation_config.json says; absent fields have no value.
struct GenerationDefaults {
  std::optional<float> temperature, top_p, min_p, repetition_penalty;
  std::optional<int> top_k, max_new_tokens;
  std::vector<int32_t> eos_token_ids;  // that end a text, beside those of config.json
};

// Reads a generation_config.json, given itself or by its folder. kLoad for a file that is missing,
// kUnsupported for one that is malformed or out of range.
Result<GenerationDefaults> ReadGenerationDefaults(const std::string& path);

// The fields of the JSON object `text` take the place of those in `defaults`. kInvalidArgument with
// `name` as `param` if there is no such object, or it has a field that nothing here reads.
Status OverrideGenerationDefaults(const std::string& text, const std::string& name,
                                  GenerationDefaults* defaults);

// Appends the ids that are not there yet.
void MergeTokenIds(const std::vector<int32_t>& from, std::vector<int32_t>* to);

}  // namespace tangram
