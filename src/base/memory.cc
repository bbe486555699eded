#include "base/memory.h"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <limits>

namespace tangram {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kNoLimit = std::numeric_limits<int64_t>::max();

int64_t ReadNumber(const fs::path& path) {
  std::ifstream file(path);
  int64_t value = 0;
  return file >> value ? value : -1;  // "max" is no number either
}

int64_t SystemAvailable() {
  std::ifstream file("/proc/meminfo");
  std::string key, unit;
  int64_t kilobytes = 0;
  while (file >> key >> kilobytes) {
    std::getline(file, unit);
    if (key == "MemAvailable:") return kilobytes * 1024;
  }
  return kNoLimit;
}

int64_t LeftOfAddressSpace() {
  rlimit limit{};
  if (getrlimit(RLIMIT_AS, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) return kNoLimit;
  const int64_t mapped = ReadNumber("/proc/self/statm") * sysconf(_SC_PAGESIZE);
  return std::max<int64_t>(0, static_cast<int64_t>(limit.rlim_cur) - mapped);
}

// What a version of control groups calls its files.
struct GroupFiles {
  const char *limit, *used, *droppable;
};
constexpr GroupFiles kVersion2 = {"memory.max", "memory.current", "inactive_file"};
constexpr GroupFiles kVersion1 = {"memory.limit_in_bytes", "memory.usage_in_bytes",
                                  "total_inactive_file"};

int64_t ReadStatistic(const fs::path& path, const std::string& wanted) {
  std::ifstream file(path);
  std::string key;
  for (int64_t value = 0; file >> key >> value;) {
    if (key == wanted) return value;
  }
  return 0;
}

// Of one group's limit, if it has one.
int64_t LeftByGroup(const fs::path& folder, const GroupFiles& files) {
  const int64_t limit = ReadNumber(folder / files.limit), used = ReadNumber(folder / files.used);
  if (limit < 0 || used < 0) return kNoLimit;
  const int64_t droppable = ReadStatistic(folder / "memory.stat", files.droppable);
  return std::max<int64_t>(0, limit - std::max<int64_t>(0, used - droppable));
}

// Of a group and all above it, to the mount. In a container the path may be the host's, of which
// only the mount itself is there.
int64_t LeftByGroups(const fs::path& mount, const fs::path& group, const GroupFiles& files) {
  int64_t left = LeftByGroup(mount, files);
  fs::path folder = mount;
  for (const fs::path& part : group.relative_path()) {
    if (part == "..") break;  // above the container's root
    folder /= part;
    left = std::min(left, LeftByGroup(folder, files));
  }
  return left;
}

}  // namespace

int64_t LeftByControlGroups(const std::string& memberships, const std::string& mount) {
  // One "hierarchy:controllers:path" a line; version 2 names no controllers.
  std::ifstream file(memberships);
  int64_t left = kNoLimit;
  for (std::string line; std::getline(file, line);) {
    const size_t first = line.find(':'), second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = "," + line.substr(first + 1, second - first - 1) + ",";
    const std::string path = line.substr(second + 1);
    if (controllers == ",,") {
      left = std::min(left, LeftByGroups(mount, path, kVersion2));
    } else if (controllers.find(",memory,") != std::string::npos) {
      left = std::min(left, LeftByGroups(fs::path(mount) / "memory", path, kVersion1));
    }
  }
  return left;
}

int64_t AvailableMemory() {
  return std::min({SystemAvailable(), LeftByControlGroups("/proc/self/cgroup", "/sys/fs/cgroup"),
                   LeftOfAddressSpace()});
}

}  // namespace tangram
