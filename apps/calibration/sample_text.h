#pragma once

#include <string_view>

namespace tangram::apps {

// The bundled calibration text: passages of the King James Bible, which is in the public domain,
// one a paragraph (apps/calibration/sample.txt, compiled in).
std::string_view SampleText();

}  // namespace tangram::apps
