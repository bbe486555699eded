#include "bench/cuda/decode_study.h"

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>

namespace tangram::bench {
namespace {

constexpr int32_t kMixedContexts[] = {
#include "bench/cuda/mixed_contexts.inc"
};

}  // namespace

std::vector<DecodeContexts> StudyBatches() {
  return {{"64x32k", std::vector<int32_t>(64, 32768)},
          {"8x32k", std::vector<int32_t>(8, 32768)},
          {"64mixed", {std::begin(kMixedContexts), std::end(kMixedContexts)}},
          {"16x4k", std::vector<int32_t>(16, 4096)},
          {"1x128k", std::vector<int32_t>(1, 131072)}};
}

std::vector<float> ReadRatios(const std::string& path) {
  std::ifstream file(path);
  int layers = 0, heads = 0;
  file >> layers >> heads;
  std::vector<float> ratios(size_t{1} * layers * heads);
  for (float& ratio : ratios) file >> ratio;
  if (!file || ratios.empty()) {
    std::fprintf(stderr, "%s: no profile (tools/profile_ratios.py writes them)\n", path.c_str());
    std::exit(2);
  }
  return ratios;
}

std::vector<float> SpreadRatios(int heads) {
  std::vector<float> ratios(heads);
  for (int i = 0; i < heads; ++i) {
    ratios[i] = 0.1f + 0.4f * static_cast<float>(i * 97 % heads) / static_cast<float>(heads - 1);
  }
  return ratios;
}

}  // namespace tangram::bench
