#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace tangram::bench {

// The batches that decode attention is measured with, ours and others' alike.
struct StudyModel {
  const char* name;
  int layers;  // of 32 query heads, 8 KV heads, head_dim 128
};
inline constexpr StudyModel kStudyModels[] = {{"llama-3.1-8b", 32}, {"qwen3-4b", 36}};
inline constexpr double kStudyRatio = 0.3;
inline constexpr int kStudyChunk = 1024;

struct DecodeContexts {
  const char* name;
  std::vector<int32_t> contexts;
};
std::vector<DecodeContexts> StudyBatches();

// The retention of each head, [L * Hkv], from a file that tools/profile_ratios.py wrote. Exits with
// a message if it cannot be read.
std::vector<float> ReadRatios(const std::string& path);
// Made-up ones, between 0.1 and 0.5.
std::vector<float> SpreadRatios(int heads);

}  // namespace tangram::bench
