#include "text/utf8.h"

#include <cstddef>

namespace tangram {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

// Length of the character that `lead` begins; 0 if it begins none.
size_t CharacterLength(unsigned char lead) {
  if (lead < 0x80) return 1;
  if (lead >= 0xC2 && lead <= 0xDF) return 2;
  if (lead >= 0xE0 && lead <= 0xEF) return 3;
  if (lead >= 0xF0 && lead <= 0xF4) return 4;
  return 0;
}

// Table 3-7 of the Unicode Standard: the second byte shuts out overlong forms, surrogates and
// what lies beyond U+10FFFF.
bool IsContinuation(unsigned char lead, size_t index, unsigned char byte) {
  if (index == 1 && lead == 0xE0) return byte >= 0xA0 && byte <= 0xBF;
  if (index == 1 && lead == 0xED) return byte >= 0x80 && byte <= 0x9F;
  if (index == 1 && lead == 0xF0) return byte >= 0x90 && byte <= 0xBF;
  if (index == 1 && lead == 0xF4) return byte >= 0x80 && byte <= 0x8F;
  return byte >= 0x80 && byte <= 0xBF;
}

// Bytes of `text` that form a character or the valid beginning of one; at least 1.
size_t ValidLength(std::string_view text, size_t wanted) {
  const auto lead = static_cast<unsigned char>(text[0]);
  size_t length = 1;
  while (length < wanted && length < text.size() &&
         IsContinuation(lead, length, static_cast<unsigned char>(text[length]))) {
    ++length;
  }
  return length;
}

}  // namespace

std::string Utf8Reader::Push(std::string_view bytes) {
  tail_ += bytes;
  std::string text;
  std::string_view rest = tail_;
  while (!rest.empty()) {
    const size_t wanted = CharacterLength(static_cast<unsigned char>(rest[0]));
    const size_t valid = ValidLength(rest, wanted);
    if (valid < wanted && valid == rest.size()) break;  // more may come
    text += valid == wanted ? rest.substr(0, valid) : kReplacement;
    rest.remove_prefix(valid);
  }
  tail_ = std::string(rest);
  return text;
}

std::string Utf8Reader::Finish() {
  const bool cut = !tail_.empty();
  tail_.clear();
  return std::string(cut ? kReplacement : "");
}

}  // namespace tangram
