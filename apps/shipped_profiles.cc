#include "shipped_profiles.h"

namespace tangram::apps {

namespace fs = std::filesystem;

std::string ShippedProfiles() {
  std::error_code ignored;
  return ShippedProfilesOf(fs::read_symlink("/proc/self/exe", ignored));
}

std::string ShippedProfilesOf(const fs::path& program) {
  std::error_code ignored;
  for (const char* place : {"profiles", "../share/tangram/profiles", "../../profiles"}) {
    const fs::path folder = (program.parent_path() / place).lexically_normal();
    if (fs::is_directory(folder, ignored)) return folder;
  }
  return {};
}

}  // namespace tangram::apps
