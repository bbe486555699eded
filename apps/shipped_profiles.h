#pragma once

#include <filesystem>
#include <string>

namespace tangram::apps {

// The folder of the profiles that came with this program; empty if there is none.
std::string ShippedProfiles();

// The same of the program at a path: `profiles` beside it, `share/tangram/profiles` of the prefix
// that it is installed in, or `profiles` of the source tree that it was built in.
std::string ShippedProfilesOf(const std::filesystem::path& program);

}  // namespace tangram::apps
