// Where a profile comes from, on a tiny model: named, beside the model, shipped, from the user's
// cache, made.

#include "compression/find_profile.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "support/engine_session.h"
#include "support/test_folder.h"

namespace tangram {
namespace {

namespace fs = std::filesystem;

// A copy of the tiny model's folder, with a cache of its own.
class FindProfileTest : public testing::Test {
 protected:
  void SetUp() override {
    fs::copy(TinyConfig().model_path, root_ / "model");
    setenv("XDG_CACHE_HOME", (root_ / "cache").c_str(), 1);
    config_ = TinyConfig();
    config_.model_path = root_ / "model";
    config_.page_size = 4;
    config_.compression.ratio = 0.5f;
    config_.compression.chunk = 16;
    config_.compression.window = 4;
    config_.compression.scorer = Scorer::kKeyDiff;
    backend_ = ops::CreateCpuBackend(1);
    model_ = std::move(*LoadModel(config_.model_path, {}, *backend_));
  }
  void TearDown() override { unsetenv("XDG_CACHE_HOME"); }

  Profile Made(float ratio = 0.3f) const {
    Profile profile;
    profile.model_fingerprint = model_->fingerprint();
    profile.num_layers = model_->config().num_layers;
    profile.num_kv_heads = model_->config().num_key_value_heads;
    profile.num_samples = profile.sample_tokens = 1;
    const auto heads = static_cast<size_t>(profile.num_layers * profile.num_kv_heads);
    ScorerProfile& scorer = profile.scorers[Scorer::kKeyDiff];
    scorer.demand = {
        profile.num_layers, profile.num_kv_heads, {ratio}, std::vector<float>(heads, ratio)};
    scorer.spread.assign(heads, 0);
    scorer.stability = {1};
    return profile;
  }
  // As a start does it: what is not found is made and kept.
  Result<FoundProfile> FindOrMake() {
    auto found = FindProfile(config_, *model_);
    if (!found) return tl::unexpected(found.error());
    if (*found) return std::move(**found);
    ++num_made_;
    return KeepProfile(Made(), *model_);
  }
  std::string Cached() const { return ProfilePathInCache(model_->fingerprint()); }

  TestFolder folder_;
  const fs::path root_ = folder_.path();
  EngineConfig config_;
  std::unique_ptr<ops::Backend> backend_;
  std::unique_ptr<Model> model_;
  int num_made_ = 0;
};

TEST_F(FindProfileTest, IsMadeOnceAndKept) {
  for (int start = 0; start < 2; ++start) {
    const auto found = FindOrMake();
    ASSERT_TRUE(found) << found.error().message;
    EXPECT_EQ(found->path, Cached());
  }
  EXPECT_EQ(num_made_, 1);
  EXPECT_TRUE(fs::path(Cached()).string().starts_with((root_ / "cache/tangram").string()));
  EXPECT_EQ(std::distance(fs::directory_iterator(root_ / "cache/tangram"), {}), 1)
      << "no unfinished file stays";
}

TEST_F(FindProfileTest, TheNamedOneComesFirstThenTheOneBesideTheModel) {
  ASSERT_TRUE(FindOrMake());
  const std::string beside = ProfilePathBeside(config_.model_path + "/");
  EXPECT_EQ(beside, (root_ / "model.profile.safetensors").string());
  ASSERT_TRUE(SaveProfile(Made(), beside));
  EXPECT_EQ(FindOrMake()->path, beside);
  config_.compression_profile = root_ / "named.safetensors";
  ASSERT_TRUE(SaveProfile(Made(), config_.compression_profile));
  EXPECT_EQ(FindOrMake()->path, config_.compression_profile);
  EXPECT_EQ(num_made_, 1);
}

TEST_F(FindProfileTest, AShippedOneOfTheseWeightsComesBeforeTheCache) {
  ASSERT_TRUE(FindOrMake());
  fs::create_directories(root_ / "shipped");
  config_.shipped_profiles = root_ / "shipped";
  Profile other = Made();
  ++other.model_fingerprint;
  ASSERT_TRUE(SaveProfile(other, root_ / "shipped/a.profile.safetensors"));
  std::ofstream(root_ / "shipped/b.profile.safetensors") << "garbage";
  EXPECT_EQ(FindOrMake()->path, Cached());
  const std::string shipped = root_ / "shipped/c.profile.safetensors";
  ASSERT_TRUE(SaveProfile(Made(0.7f), shipped));  // above the ratio that is asked for
  EXPECT_EQ(FindOrMake()->path, Cached());
  ASSERT_TRUE(SaveProfile(Made(), shipped));
  const auto found = FindOrMake();
  EXPECT_EQ(found->path, shipped);
  EXPECT_EQ(found->origin, "shipped with Tangram");
  const std::string beside = ProfilePathBeside(config_.model_path);
  ASSERT_TRUE(SaveProfile(Made(), beside));
  EXPECT_EQ(FindOrMake()->path, beside);
  EXPECT_EQ(num_made_, 1);
}

TEST_F(FindProfileTest, AShippedOneIsFoundByTheModelsName) {
  const std::string shipped = root_ / "Tiny-1B.profile.safetensors";
  std::ofstream(shipped) << "anything";
  for (const char* model : {"Tiny-1B", "a/Tiny-1B/", "Tiny-1B.gguf", "b/Tiny-1B.Q4_1.gguf"}) {
    EXPECT_EQ(ShippedProfileByName(root_, model), shipped) << model;
  }
  for (const char* model : {"Tiny-1B-Instruct.gguf", "Tiny", "", "Other.gguf"}) {
    EXPECT_EQ(ShippedProfileByName(root_, model), "") << model;
  }
  EXPECT_EQ(ShippedProfileByName("/nowhere", "Tiny-1B"), "");
  EXPECT_EQ(ShippedProfileByName("", "Tiny-1B"), "");
}

TEST_F(FindProfileTest, ACachedOneThatDoesNotServeIsMadeAnew) {
  fs::create_directories(root_ / "cache/tangram");
  std::ofstream(Cached()) << "garbage";
  EXPECT_TRUE(FindOrMake());
  EXPECT_EQ(num_made_, 1);
  ASSERT_TRUE(SaveProfile(Made(0.7f), Cached()));  // above the ratio that is asked for
  EXPECT_TRUE(FindOrMake());
  EXPECT_EQ(num_made_, 2);
}

// The file of a version that did not say which it was.
Profile Outdated(Profile profile) {
  profile.calibration_version = kCalibrationVersion - 1;
  return profile;
}

TEST_F(FindProfileTest, AnOutdatedCachedOneIsMadeAnew) {
  fs::create_directories(root_ / "cache/tangram");
  ASSERT_TRUE(SaveProfile(Outdated(Made()), Cached()));
  EXPECT_FALSE(*FindProfile(config_, *model_));
  testing::internal::CaptureStdout();
  const auto found = FindOrMake();
  const std::string log = testing::internal::GetCapturedStdout();
  ASSERT_TRUE(found) << found.error().message;
  EXPECT_EQ(num_made_, 1);
  EXPECT_NE(log.find("earlier version of Tangram; it is not used"), std::string::npos) << log;
  EXPECT_TRUE(FindOrMake());
  EXPECT_EQ(num_made_, 1) << "the new one took its place";
}

TEST_F(FindProfileTest, AnOutdatedGivenOneIsUsedWithAWarning) {
  config_.compression_profile = root_ / "named.safetensors";
  for (const bool outdated : {true, false}) {
    ASSERT_TRUE(SaveProfile(outdated ? Outdated(Made()) : Made(), config_.compression_profile));
    testing::internal::CaptureStdout();
    const auto found = FindOrMake();
    const std::string log = testing::internal::GetCapturedStdout();
    ASSERT_TRUE(found) << found.error().message;
    EXPECT_EQ(IsOutdated(found->profile), outdated);
    EXPECT_EQ(log.find("is used as it is") != std::string::npos, outdated) << log;
  }
  EXPECT_EQ(num_made_, 0);
}

TEST_F(FindProfileTest, AFileThatSaysNoVersionIsOfTheFirst) {
  const fs::path seed = fs::path(TANGRAM_SOURCE_DIR) / "tests/fuzz/seeds/profile/safetensors";
  const auto old = LoadProfile(seed);
  ASSERT_TRUE(old) << old.error().message;
  EXPECT_TRUE(IsOutdated(*old));
  const auto published = LoadProfile(seed.parent_path() / "npz_stored");
  ASSERT_TRUE(published) << published.error().message;
  EXPECT_FALSE(IsOutdated(*published)) << "what others measured has no version of ours";
}

TEST_F(FindProfileTest, WhatIsNamedButFaultyIsTheUsersMistake) {
  const auto error = [&] {
    const auto found = FindOrMake();
    EXPECT_FALSE(found);
    return found ? Error{} : found.error();
  };
  config_.compression_profile = root_ / "named.safetensors";
  EXPECT_EQ(error().kind, ErrorKind::kInvalidArgument) << "missing";
  std::ofstream(config_.compression_profile) << "garbage";
  EXPECT_EQ(error().kind, ErrorKind::kInvalidArgument) << "corrupt";
  Profile other = Made();
  ++other.model_fingerprint;
  ASSERT_TRUE(SaveProfile(other, config_.compression_profile));
  EXPECT_NE(error().message.find("another model"), std::string::npos);
  EXPECT_EQ(error().param, "compression_profile");
  EXPECT_EQ(num_made_, 0);
}

TEST_F(FindProfileTest, AnUnwritableCacheOnlyCostsTheNextStart) {
  std::ofstream(root_ / "cache") << "a file where the folder should be";
  const auto found = FindOrMake();
  ASSERT_TRUE(found) << found.error().message;
  EXPECT_EQ(found->path, "not kept");
}

TEST_F(FindProfileTest, WhereThereIsNoneTheRemedyIsTold) {
  const auto found = FindProfile(config_, *model_);
  ASSERT_TRUE(found);
  EXPECT_FALSE(*found);
  EXPECT_NE(NoProfileError(config_).message.find("tangram calibrate"), std::string::npos);
}

}  // namespace
}  // namespace tangram
