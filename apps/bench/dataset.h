#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/options.h"
#include "base/result.h"
#include "text/tokenizer.h"

namespace tangram::apps::bench {

// A request of a measurement.
struct BenchPrompt {
  std::string text;  // empty where no tokenizer is at hand
  std::vector<int32_t> tokens;
  int output_len = 0;
};

// vLLM's datasets "random", "sharegpt" and "custom" (JSON lines with "prompt"), by its rules.
struct DatasetConfig {
  std::string name = "random", path;
  int num_prompts = 1000;
  uint64_t seed = 0;
  int input_len = 1024, output_len = 128, prefix_len = 0;  // random
  double range_ratio = 0;    // random: lengths within +- this share, [0, 1)
  int fixed_output_len = 0;  // sharegpt and custom; 0: the sample's, or 256
};

// Options of the dataset. With `with_files` also those of datasets that are read from files.
void DeclareDataset(Options& options, DatasetConfig& config, bool with_files);

// The prompts. `tokenizer` may be null for "random": then texts are empty and ids stay below
// `vocab_size`. kInvalidArgument for files that are not of the dataset's form.
Result<std::vector<BenchPrompt>> MakePrompts(const DatasetConfig& config,
                                             const Tokenizer* tokenizer, int vocab_size);

}  // namespace tangram::apps::bench
