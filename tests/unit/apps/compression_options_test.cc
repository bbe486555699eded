#include "compression_options.h"

#include <gtest/gtest.h>

namespace tangram::apps {
namespace {

struct Parsed {
  EngineConfig config;
  Status status;
  std::vector<std::string> warnings;
};

Parsed Parse(std::vector<std::string> args) {
  Parsed parsed;
  Options options("tangram test", "A test.");
  DeclareCompressionOptions(options, parsed.config);
  parsed.status = options.Parse(std::move(args));
  parsed.warnings = options.warnings();
  return parsed;
}

TEST(CompressionOptions, EitherFlagSwitchesOn) {
  EXPECT_FALSE(Parse({}).config.compression.enabled());
  const Parsed by_ratio = Parse({"--compression-ratio", "0.3"});
  ASSERT_TRUE(by_ratio.status) << by_ratio.status.error().message;
  EXPECT_TRUE(by_ratio.config.compression.enabled());
  EXPECT_TRUE(Parse({"--enable-compression", "--compression-ratio=0.3"}).status);
  const Parsed by_request = Parse({"--enable-compression", "--compression-ratio", "1"});
  ASSERT_TRUE(by_request.status);
  EXPECT_TRUE(by_request.config.compression.enabled());
  EXPECT_FALSE(Parse({"--compression-ratio", "1"}).config.compression.enabled());
  const Parsed alone = Parse({"--enable-compression"});
  ASSERT_FALSE(alone.status);
  EXPECT_EQ(alone.status.error().kind, ErrorKind::kInvalidArgument);
  EXPECT_NE(alone.status.error().message.find("--compression-ratio 0.3"), std::string::npos);
  EXPECT_FALSE(Parse({"--no-enable-compression", "--compression-ratio", "0.3"}).status);
  EXPECT_TRUE(Parse({"--no-enable-compression"}).status);
}

TEST(CompressionOptions, NothingIsIgnoredInSilence) {
  const Parsed off = Parse({"--compression-scorer", "snapkv", "--compression-chunk-size", "256"});
  ASSERT_TRUE(off.status);
  ASSERT_EQ(off.warnings.size(), 2u);
  for (const std::string& warning : off.warnings) {
    EXPECT_NE(warning.find("has no effect: nothing is compressed unless"), std::string::npos)
        << warning;
  }
  EXPECT_TRUE(
      Parse({"--compression-scorer", "snapkv", "--compression-ratio", "0.5"}).warnings.empty());
}

TEST(CompressionOptions, TheLevelIsTheScorersUnlessGiven) {
  const auto level = [](std::vector<std::string> args) {
    return Parse(std::move(args)).config.compression.level;
  };
  EXPECT_EQ(level({}), BudgetLevel::kCrossLayer);
  EXPECT_EQ(level({"--compression-scorer", "keydiff"}), BudgetLevel::kCrossLayer);
  EXPECT_EQ(level({"--compression-scorer", "expected_attention"}), BudgetLevel::kPerLayer);
  EXPECT_EQ(level({"--compression-scorer", "expected_attention", "--compression-level", "uniform"}),
            BudgetLevel::kUniform);
}

TEST(CompressionOptions, TakesTheReferencesSpellings) {
  for (const auto& [word, level] : {std::pair("perlayer_cluster", BudgetLevel::kPerLayer),
                                    std::pair("perlayer_head", BudgetLevel::kPerLayer),
                                    std::pair("crosslayer_cluster", BudgetLevel::kCrossLayer),
                                    std::pair("crosslayer_head", BudgetLevel::kCrossLayer),
                                    std::pair("per-layer", BudgetLevel::kPerLayer),
                                    std::pair("cross-layer", BudgetLevel::kCrossLayer),
                                    std::pair("uniform", BudgetLevel::kUniform)}) {
    const Parsed parsed = Parse({"--compression_ratio", "0.5", "--compression-level", word});
    ASSERT_TRUE(parsed.status) << word;
    EXPECT_EQ(parsed.config.compression.level, level) << word;
    EXPECT_EQ(parsed.warnings.size(), std::string_view(word).ends_with("_head") ? 1u : 0u) << word;
  }
  const Parsed dump = Parse({"--compression-ratio", "0.5", "--compression-retention-dump", "x.npz",
                             "--head-group-cluster-map", "identity"});
  ASSERT_TRUE(dump.status);
  EXPECT_EQ(dump.warnings.size(), 1u);
  EXPECT_EQ(dump.config.head_group_map, "identity");
}

TEST(CompressionOptions, ThePublishedSettingsAreReachable) {
  const Parsed parsed =
      Parse({"--compression-ratio", "0.3", "--compression-chunk-size", "2048",
             "--compression-window-size", "32", "--compression-n-sink-tokens", "4",
             "--compression-floor-min", "512", "--compression-scorer", "snapkv"});
  ASSERT_TRUE(parsed.status) << parsed.status.error().message;
  EXPECT_EQ(parsed.config.compression.chunk, 2048);
  EXPECT_EQ(parsed.config.compression.floor, 512);
}

TEST(CompressionOptions, ScorersHaveTheirOwnSettings) {
  const Parsed parsed =
      Parse({"--compression-snap-window", "64", "--compression-snap-kernel=5",
             "--no-compression-ea-use-covariance", "--compression-ea-use-vnorm=false",
             "--compression-ea-n-future-positions", "128", "--compression-ea-epsilon", "0.02"});
  ASSERT_TRUE(parsed.status) << parsed.status.error().message;
  EXPECT_EQ(parsed.config.compression.snapkv.window, 64);
  EXPECT_EQ(parsed.config.compression.snapkv.kernel, 5);
  const ExpectedAttentionConfig& expected = parsed.config.compression.expected_attention;
  EXPECT_FALSE(expected.covariance);
  EXPECT_FALSE(expected.value_norm);
  EXPECT_EQ(expected.future_positions, 128);
  EXPECT_FLOAT_EQ(expected.epsilon, 0.02f);
}

TEST(CompressionOptions, WhatDoesNotFitIsNamed) {
  const auto param = [](std::vector<std::string> args) {
    const Parsed parsed = Parse(std::move(args));
    EXPECT_FALSE(parsed.status);
    return parsed.status ? "" : parsed.status.error().param;
  };
  for (const char* ratio : {"0", "-0.5", "1.01", "30", "nan"}) {
    EXPECT_NE(param({"--compression-ratio", ratio}).find("ratio"), std::string::npos) << ratio;
  }
  EXPECT_EQ(param({"--compression-chunk-size", "100"}), "compression_chunk_size");
  EXPECT_EQ(param({"--compression-chunk-size", "0"}), "compression_chunk_size");
  EXPECT_EQ(param({"--compression-snap-kernel", "4"}), "compression_snap_window");
  EXPECT_EQ(param({"--compression-window-size", "512"}), "compression_window_size");
  EXPECT_EQ(param({"--compression-window-size", "0"}), "compression_window_size");
  EXPECT_EQ(param({"--compression-n-sink-tokens", "-1"}), "compression_n_sink_tokens");
  EXPECT_EQ(param({"--compression-n-sink-tokens", "2000000000"}), "compression_n_sink_tokens");
  EXPECT_EQ(param({"--compression-floor-min", "2147483647"}), "compression_floor_min");
}

TEST(CompressionOptions, ARatioBetweenHundredthsIsRoundedAloud) {
  const Parsed parsed = Parse({"--compression-ratio", "0.304"});
  ASSERT_TRUE(parsed.status);
  EXPECT_FLOAT_EQ(parsed.config.compression.ratio, 0.3f);
  ASSERT_EQ(parsed.warnings.size(), 1u);
  EXPECT_NE(parsed.warnings[0].find("0.30"), std::string::npos);
}

TEST(CompressionOptions, FlagsOfAnotherScorerAreNamed) {
  const auto warnings = [](const char* scorer) {
    return Parse({"--compression-ratio=0.3", "--compression-scorer", scorer,
                  "--compression-snap-kernel=5", "--compression-gate-path=gates.safetensors"})
        .warnings;
  };
  ASSERT_EQ(warnings("gate").size(), 2u);
  ASSERT_EQ(warnings("snapkv").size(), 1u);
  EXPECT_NE(warnings("snapkv")[0].find("--compression-gate-path"), std::string::npos);
  ASSERT_EQ(warnings("fastkvzip").size(), 1u);
  EXPECT_NE(warnings("fastkvzip")[0].find("--compression-snap-kernel"), std::string::npos);
}

}  // namespace
}  // namespace tangram::apps
