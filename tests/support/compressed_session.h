#pragma once

#include <fmt/format.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "calibration/calibration.h"
#include "model/model.h"
#include "support/engine_session.h"

// The tiny model with compression: chunks of 16 tokens in pages of 4, a profile of its own.
namespace tangram {

inline constexpr int kPageSize = 4, kChunk = 16;
inline constexpr const char* kRandomGates =
    TANGRAM_SOURCE_DIR "/tests/unit/compression/golden/fastkvzip_qwen3_tied_bf16.safetensors";

inline CompressionConfig TinyCompression(float ratio, Scorer scorer, BudgetLevel level) {
  CompressionConfig c;
  c.ratio = ratio;
  c.chunk = kChunk;
  c.window = 4;
  c.sinks = 2;
  c.scorer = scorer;
  c.level = level;
  return c;
}

// Calibrates the tiny model once, into a file of the test program's own.
inline const std::string& TinyProfile() {
  static const std::string path = [] {
    auto backend = ops::CreateCpuBackend(2);
    LoadOptions load;
    auto model = LoadModel(TinyConfig().model_path, load, *backend);
    EXPECT_TRUE(model) << model.error().message;
    std::vector<std::vector<TokenId>> texts;
    for (uint32_t i = 0; i < 4; ++i) {
      texts.push_back(MakeRequest(1000 + i, 48, 1, (*model)->config().vocab_size).prompt);
    }
    CalibrationOptions options;
    options.compression = TinyCompression(1, Scorer::kGate, BudgetLevel::kCrossLayer);
    options.ratios = {0.3f, 0.5f};
    options.page_size = kPageSize;
    options.compression_gate = kRandomGates;
    const std::vector<TokenId> repeat = {1, 2, 3};
    auto profile = Calibrate(**model, *backend, texts, repeat, options);
    EXPECT_TRUE(profile) << profile.error().message;
    const std::string file =
        fmt::format("{}tiny_{}.profile.safetensors", ::testing::TempDir(), getpid());
    EXPECT_TRUE(SaveProfile(*profile, file));
    return file;
  }();
  return path;
}

inline EngineConfig TinyCompressed(float ratio, Scorer scorer, BudgetLevel level) {
  EngineConfig config = TinyConfig();
  config.page_size = kPageSize;
  config.compression = TinyCompression(ratio, scorer, level);
  config.compression_profile = TinyProfile();
  config.compression_gate = kRandomGates;
  return config;
}

}  // namespace tangram
