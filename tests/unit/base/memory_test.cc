// What memory a process may still take.

#include "base/memory.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <filesystem>
#include <fstream>
#include <limits>

#include "support/test_folder.h"

namespace tangram {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kNoLimit = std::numeric_limits<int64_t>::max();

// A tree of control groups of its own.
class ControlGroupsTest : public testing::Test {
 protected:
  void Write(const std::string& path, const std::string& text) {
    fs::create_directories((root_ / path).parent_path());
    std::ofstream(root_ / path) << text;
  }
  int64_t Left(const std::string& memberships) {
    Write("memberships", memberships);
    return LeftByControlGroups(root_ / "memberships", root_ / "mount");
  }

  TestFolder folder_;
  const fs::path root_ = folder_.path();
};

TEST_F(ControlGroupsTest, TheTightestAboveTheProcessCounts) {
  const std::string service = "0::/system.slice/tangram.service\n";
  EXPECT_EQ(Left(service), kNoLimit) << "none is there";
  Write("mount/system.slice/memory.max", "1000\n");
  Write("mount/system.slice/memory.current", "600\n");
  EXPECT_EQ(Left(service), 400);
  Write("mount/system.slice/tangram.service/memory.max", "max\n");
  Write("mount/system.slice/tangram.service/memory.current", "300\n");
  EXPECT_EQ(Left(service), 400);
  Write("mount/system.slice/tangram.service/memory.max", "350\n");
  EXPECT_EQ(Left(service), 50);
  Write("mount/system.slice/tangram.service/memory.stat", "anon 180\ninactive_file 120\n");
  EXPECT_EQ(Left(service), 170) << "file pages are dropped before anything fails";
  Write("mount/system.slice/tangram.service/memory.current", "9000\n");
  EXPECT_EQ(Left(service), 0);
  EXPECT_EQ(Left("0::/system.slice\n"), 400);
  EXPECT_EQ(Left("0::/\n"), kNoLimit);
}

TEST_F(ControlGroupsTest, AContainerSeesItsOwnAsTheMount) {
  Write("mount/memory.max", "1000\n");
  Write("mount/memory.current", "100\n");
  for (const char* path : {"0::/\n", "0::/../../other\n", "0::/docker/0123\n"}) {
    EXPECT_EQ(Left(path), 900) << path;
  }
}

TEST_F(ControlGroupsTest, VersionOne) {
  const std::string groups = "9:name=systemd:/\n4:cpu,memory:/box\n1:cpuset:/\n0::/\n";
  Write("mount/memory/memory.limit_in_bytes", "9223372036854771712\n");
  Write("mount/memory/memory.usage_in_bytes", "5000\n");
  EXPECT_EQ(Left(groups), 9223372036854771712 - 5000);
  Write("mount/memory/box/memory.limit_in_bytes", "2000\n");
  Write("mount/memory/box/memory.usage_in_bytes", "1500\n");
  Write("mount/memory/box/memory.stat", "cache 800\ntotal_inactive_file 700\n");
  EXPECT_EQ(Left(groups), 1200);
  EXPECT_EQ(Left("5:cpuset:/box\n"), kNoLimit) << "of memory, not of others";
}

TEST(AvailableMemoryTest, CountsTheAddressSpace) {
  rlimit old{};
  ASSERT_EQ(getrlimit(RLIMIT_AS, &old), 0);
  constexpr int64_t kGiB = int64_t{1} << 30;
  const int64_t before = AvailableMemory();
  int64_t mapped = 0;
  std::ifstream("/proc/self/statm") >> mapped;
  mapped *= 4096;
  rlimit tight = old;
  tight.rlim_cur = static_cast<rlim_t>(mapped + kGiB / 4);
  ASSERT_EQ(setrlimit(RLIMIT_AS, &tight), 0);
  const int64_t left = AvailableMemory();
  ASSERT_EQ(setrlimit(RLIMIT_AS, &old), 0);
  EXPECT_GT(before, kGiB / 2) << "this machine is too small for the test";
  EXPECT_LE(left, kGiB / 4);
  EXPECT_GT(left, kGiB / 8);
}

}  // namespace
}  // namespace tangram
