#pragma once

#include <string>
#include <string_view>

namespace tangram {

// Reads bytes as UTF-8 piece by piece. Each maximal invalid part becomes one U+FFFD (the Unicode
// Standard, section 3.9, "U+FFFD Substitution of Maximal Subparts"; what WHATWG decoders, Python's
// and Rust's lossy conversions do), however the bytes are cut into pieces.
class Utf8Reader {
 public:
  // The characters that are certain now; up to three bytes are withheld.
  std::string Push(std::string_view bytes);

  // What was withheld was all: one U+FFFD if there was anything.
  std::string Finish();

 private:
  std::string tail_;  // the valid beginning of one character
};

}  // namespace tangram
