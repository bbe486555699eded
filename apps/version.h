#pragma once

#include <string>

namespace tangram::apps {

// The commit that was built, shortened, or "unknown" outside a clone. Its source is written by
// cmake/write_commit.cmake whenever HEAD moves, and holds nothing else, so that a commit costs one
// small file and the program's link.
const char* Commit();

// What `tangram --version` says: version, commit, and what the program was built with.
std::string VersionText();

}  // namespace tangram::apps
