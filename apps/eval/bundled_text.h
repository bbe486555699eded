#pragma once

#include <string_view>

namespace tangram::apps::eval {

// Compiled in; README.md says what they are and whence.
std::string_view BundledNovel();      // one paragraph a line
std::string_view BundledDialogues();  // a question behind "### ", then lines of its answer

}  // namespace tangram::apps::eval
