#include "compression/profile_import.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <numeric>

#include "support/npz_builder.h"

namespace tangram {
namespace {

// Two samples of two layers of two heads, as the published profiles are.
struct Published {
  std::string meta = R"({"scorer": "keydiff", "level": "non_uniform", "model_name": "some/model",
                         "ctx_len_min": 18000})";
  std::vector<double> raw = {0.5, 0.1, 0.0, 0.2, 0.7, 0.1, 0.0, 0.0};
  std::string raw_shape = "(1, 2, 2, 2)";
  std::vector<float> base = {0.4f};
  std::vector<int64_t> layers = {0, 1};

  std::string Build() const {
    NpzBuilder builder;
    builder.Add("meta", "|u1", fmt::format("({},)", meta.size()), std::string_view(meta));
    builder.Add("raw_ratio", "<f8", raw_shape, raw);
    builder.Add("base_ratios", "<f4", fmt::format("({},)", base.size()), base);
    builder.Add("static_layer_ids", "<i8", fmt::format("({},)", layers.size()), layers);
    return builder.Build();
  }
  Result<Profile> Import() const { return ParseProfile(ToBuffer(Build()), "p.npz"); }
};

double Mean(std::span<const float> values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

TEST(ProfileImport, DemandIsTheMeanAndIsEnlargedToTheNominalRatio) {
  const auto profile = Published().Import();
  ASSERT_TRUE(profile) << profile.error().message;
  EXPECT_EQ(profile->num_layers, 2);
  EXPECT_EQ(profile->num_kv_heads, 2);
  EXPECT_EQ(profile->num_samples, 2);
  EXPECT_EQ(profile->sample_tokens, 18000);
  EXPECT_EQ(profile->model_fingerprint, 0u);
  EXPECT_TRUE(profile->gate_weight.empty());
  EXPECT_NE(profile->imported_from.find("some/model"), std::string::npos);
  const ScorerProfile& keydiff = profile->scorers.at(Scorer::kKeyDiff);
  ASSERT_EQ(keydiff.demand.ratios.size(), 2u);
  EXPECT_NEAR(keydiff.demand.ratios[0], 0.2, 1e-6);
  EXPECT_NEAR(keydiff.demand.ratios[1], 0.4, 1e-6);
  const std::span<const float> shares(keydiff.demand.shares);
  const float measured[] = {0.6f, 0.1f, 0.0f, 0.1f};
  for (size_t h = 0; h < 4; ++h) EXPECT_FLOAT_EQ(shares[h], measured[h]);
  EXPECT_NEAR(Mean(shares.last(4)), 0.4, 1e-4);
  EXPECT_FLOAT_EQ(shares[4], 1.0f) << "no head keeps more than all";
  EXPECT_NEAR(shares[5], 0.3, 1e-4);
  EXPECT_NEAR(keydiff.spread[0], 0.1, 1e-6);
  EXPECT_EQ(keydiff.stability.size(), 2u);
}

TEST(ProfileImport, SurvivesItsOwnFile) {
  const auto profile = Published().Import();
  ASSERT_TRUE(profile) << profile.error().message;
  const std::string path = testing::TempDir() + "imported.profile.safetensors";
  ASSERT_TRUE(SaveProfile(*profile, path));
  const auto again = LoadProfile(path);
  ASSERT_TRUE(again) << again.error().message;
  EXPECT_EQ(again->imported_from, profile->imported_from);
  EXPECT_EQ(again->scorers.at(Scorer::kKeyDiff).demand.shares,
            profile->scorers.at(Scorer::kKeyDiff).demand.shares);
  EXPECT_FALSE(again->scorers.contains(Scorer::kGate));
}

TEST(ProfileImport, FitsTheHeadsOfTheModelOrIsRefused) {
  const auto profile = Published().Import();
  ASSERT_TRUE(profile);
  ModelConfig config;
  config.num_layers = 2;
  config.num_key_value_heads = 2;
  EXPECT_TRUE(CheckProfileHeads(*profile, config, "p.npz"));
  config.num_layers = 4;
  const auto status = CheckProfileHeads(*profile, config, "p.npz");
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().kind, ErrorKind::kInvalidArgument);
  EXPECT_NE(status.error().message.find("2 layers of 2 KV heads"), std::string::npos);
}

TEST(ProfileImport, NonsenseIsRefused) {
  const auto error = [](auto change) {
    Published p;
    change(p);
    const auto profile = p.Import();
    EXPECT_FALSE(profile);
    return profile ? Error{} : profile.error();
  };
  const auto kind = [&](auto change) { return error(change).kind; };
  EXPECT_EQ(kind([](Published& p) { p.meta = "{"; }), ErrorKind::kUnsupported);
  EXPECT_EQ(kind([](Published& p) { p.meta = "[]"; }), ErrorKind::kUnsupported);
  EXPECT_EQ(kind([](Published& p) { p.meta = R"({"scorer": "h2o"})"; }), ErrorKind::kUnsupported);
  EXPECT_EQ(kind([](Published& p) { p.meta = R"({"scorer": 7})"; }), ErrorKind::kUnsupported);
  EXPECT_EQ(kind([](Published& p) { p.raw_shape = "(8,)"; }), ErrorKind::kUnsupported);
  EXPECT_EQ(kind([](Published& p) { p.raw[3] = 1.5; }), ErrorKind::kUnsupported);
  EXPECT_EQ(kind([](Published& p) { p.raw[3] = NAN; }), ErrorKind::kUnsupported);
  EXPECT_EQ(kind([](Published& p) { p.raw.assign(8, 0.0); }), ErrorKind::kUnsupported);
  EXPECT_EQ(kind([](Published& p) { p.base = {1.5f}; }), ErrorKind::kUnsupported);
  EXPECT_EQ(kind([](Published& p) { p.base = {0.3f, 0.4f}; }), ErrorKind::kUnsupported);
  EXPECT_EQ(kind([](Published& p) { p.layers = {0, 2}; }), ErrorKind::kUnsupported);
  EXPECT_EQ(kind([](Published& p) { p.layers = {0}; }), ErrorKind::kUnsupported);
}

}  // namespace
}  // namespace tangram
