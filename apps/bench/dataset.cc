#include "bench/dataset.h"

#include <fmt/format.h>

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>

namespace tangram::apps::bench {
namespace {

using nlohmann::json;
using Random = std::mt19937_64;

int RandomLength(int length, double ratio, Random& random) {
  const int low = std::max(1, static_cast<int>(length * (1 - ratio)));
  const int high = std::max(low, static_cast<int>(length * (1 + ratio)));
  return std::uniform_int_distribution(low, high)(random);
}

// Successive ids from a random one on; a text of the same length if there is a tokenizer (tokens
// merge when text is encoded again, so what is too long is cut).
Result<std::vector<BenchPrompt>> RandomPrompts(const DatasetConfig& config,
                                               const Tokenizer* tokenizer, int vocab_size) {
  Random random(config.seed);
  std::uniform_int_distribution<int> any_id(0, vocab_size - 1);
  std::vector<int32_t> prefix(config.prefix_len);
  for (int32_t& id : prefix) id = any_id(random);
  std::vector<BenchPrompt> prompts(config.num_prompts);
  for (size_t i = 0; i < prompts.size(); ++i) {
    BenchPrompt& prompt = prompts[i];
    const int64_t offset = any_id(random);
    const int length = RandomLength(config.input_len, config.range_ratio, random);
    prompt.output_len = RandomLength(config.output_len, config.range_ratio, random);
    prompt.tokens = prefix;
    for (int j = 0; j < length; ++j) {
      prompt.tokens.push_back(
          static_cast<int32_t>((offset + static_cast<int64_t>(i) + j) % vocab_size));
    }
    if (tokenizer == nullptr) continue;
    const size_t wanted = prompt.tokens.size();
    TANGRAM_ASSIGN_OR_RETURN(prompt.tokens,
                             tokenizer->Encode(tokenizer->Decode(prompt.tokens, false), false));
    if (prompt.tokens.size() > wanted) prompt.tokens.resize(wanted);
    prompt.text = tokenizer->Decode(prompt.tokens, false);
  }
  return prompts;
}

Result<json> ReadJson(const std::string& path) {
  std::ifstream file(path);
  json parsed = file ? json::parse(file, nullptr, false) : json(json::value_t::discarded);
  if (parsed.is_discarded()) {
    return MakeError(ErrorKind::kInvalidArgument, fmt::format("{} is not a JSON file", path),
                     "dataset_path");
  }
  return parsed;
}

std::string Turn(const json& conversation, size_t index) {
  const json& turn = conversation[index];
  return turn.is_object() ? turn.value("value", "") : "";
}

// The first pair of each conversation, shuffled, but for those too short or too long.
Result<std::vector<BenchPrompt>> ShareGptPrompts(const DatasetConfig& config,
                                                 const Tokenizer& tokenizer) {
  TANGRAM_ASSIGN_OR_RETURN(const json file, ReadJson(config.path));
  std::vector<const json*> conversations;
  for (const json& entry : file) {
    const auto turns = entry.is_object() ? entry.find("conversations") : entry.end();
    if (turns != entry.end() && turns->is_array() && turns->size() >= 2) {
      conversations.push_back(&*turns);
    }
  }
  Random random(config.seed);
  std::shuffle(conversations.begin(), conversations.end(), random);
  std::vector<BenchPrompt> prompts;
  for (const json* conversation : conversations) {
    if (static_cast<int>(prompts.size()) == config.num_prompts) break;
    BenchPrompt prompt;
    prompt.text = Turn(*conversation, 0);
    TANGRAM_ASSIGN_OR_RETURN(prompt.tokens, tokenizer.Encode(prompt.text, true));
    TANGRAM_ASSIGN_OR_RETURN(const auto answer, tokenizer.Encode(Turn(*conversation, 1), true));
    prompt.output_len =
        config.fixed_output_len > 0 ? config.fixed_output_len : static_cast<int>(answer.size());
    const size_t length = prompt.tokens.size();
    const bool fits = length >= 4 && prompt.output_len >= 4 && length <= 1024 &&
                      length + prompt.output_len <= 2048;
    if (fits) prompts.push_back(std::move(prompt));
  }
  return prompts;
}

Result<std::vector<BenchPrompt>> CustomPrompts(const DatasetConfig& config,
                                               const Tokenizer& tokenizer) {
  std::ifstream file(config.path);
  std::vector<BenchPrompt> prompts;
  int number = 0;
  for (std::string line;
       static_cast<int>(prompts.size()) < config.num_prompts && std::getline(file, line);) {
    ++number;
    if (line.empty()) continue;
    const json parsed = json::parse(line, nullptr, false);
    const bool good =
        parsed.is_object() && parsed.contains("prompt") && parsed["prompt"].is_string();
    if (!good) {
      return MakeError(
          ErrorKind::kInvalidArgument,
          fmt::format("{}:{}: expected an object with \"prompt\"", config.path, number),
          "dataset_path");
    }
    BenchPrompt prompt;
    prompt.text = parsed["prompt"];
    TANGRAM_ASSIGN_OR_RETURN(prompt.tokens, tokenizer.Encode(prompt.text, true));
    prompt.output_len = config.fixed_output_len > 0 ? config.fixed_output_len : 256;
    prompts.push_back(std::move(prompt));
  }
  return prompts;
}

}  // namespace

void DeclareDataset(Options& options, DatasetConfig& config, bool with_files) {
  options.Group("Dataset");
  options.Add("num-prompts", &config.num_prompts, "how many requests");
  options.Add("random-input-len", &config.input_len, "tokens of a random prompt")
      .Alias("--input-len");
  options.Add("random-output-len", &config.output_len, "tokens of its answer")
      .Alias("--output-len");
  options.Add("random-range-ratio", &config.range_ratio, "lengths vary by up to this share");
  options.Add("random-prefix-len", &config.prefix_len, "tokens that all random prompts share");
  if (!with_files) return;
  options.Add("dataset-name", &config.name, "kind of prompts")
      .OneOf({"random", "sharegpt", "custom"});
  options.Add("dataset-path", &config.path, "file of a sharegpt or custom dataset");
  options
      .Add("fixed-output-len", &config.fixed_output_len,
           "tokens per answer for sharegpt and custom; 0: as in the sample, or 256")
      .Alias("--sharegpt-output-len")
      .Alias("--custom-output-len");
}

Result<std::vector<BenchPrompt>> MakePrompts(const DatasetConfig& config,
                                             const Tokenizer* tokenizer, int vocab_size) {
  if (config.num_prompts < 1 || config.input_len < 1 || config.output_len < 1 ||
      config.prefix_len < 0 || config.range_ratio < 0 || config.range_ratio >= 1) {
    return MakeError(ErrorKind::kInvalidArgument,
                     "--num-prompts and the lengths must be at least 1, and --random-range-ratio "
                     "from 0 to less than 1");
  }
  if (config.name == "random") return RandomPrompts(config, tokenizer, vocab_size);
  TANGRAM_ASSIGN_OR_RETURN(auto prompts, config.name == "sharegpt"
                                             ? ShareGptPrompts(config, *tokenizer)
                                             : CustomPrompts(config, *tokenizer));
  if (prompts.empty()) {
    return MakeError(ErrorKind::kInvalidArgument,
                     fmt::format("'{}' holds no usable prompt", config.path), "dataset_path");
  }
  return prompts;
}

}  // namespace tangram::apps::bench
