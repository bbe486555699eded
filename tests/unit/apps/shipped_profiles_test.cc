#include "shipped_profiles.h"

#include <gtest/gtest.h>

#include "support/test_folder.h"

namespace tangram::apps {
namespace {

namespace fs = std::filesystem;

TEST(ShippedProfilesTest, LieBesideTheProgramInItsPrefixOrInTheSourceTree) {
  const TestFolder folder;
  const fs::path root = folder.path(), program = root / "build/release/tangram";
  EXPECT_EQ(ShippedProfilesOf(program), "");
  for (const char* place : {"profiles", "build/share/tangram/profiles", "build/release/profiles"}) {
    fs::create_directories(root / place);
    EXPECT_EQ(ShippedProfilesOf(program), root / place);
  }
}

}  // namespace
}  // namespace tangram::apps
