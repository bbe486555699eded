#include "version.h"

#include <fmt/format.h>

namespace tangram::apps {

std::string VersionText() {
  return fmt::format("tangram {}\ncommit {}\nbuilt with {}, {}\n", TANGRAM_VERSION, Commit(),
                     TANGRAM_COMPILER, TANGRAM_BUILD_KIND);
}

}  // namespace tangram::apps
