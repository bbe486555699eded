#pragma once

#include <memory>
#include <string>

#include "text/tokenizer.h"

namespace tangram {

// UTF-8 of one code point below 0x800.
inline std::string Utf8(int code) {
  if (code < 0x80) return std::string(1, static_cast<char>(code));
  return {static_cast<char>(0xC0 | (code >> 6)), static_cast<char>(0x80 | (code & 0x3F))};
}

// Ids 0 to 255 are single bytes, in order; then the merges "ab", "abc", the user's token "<tool>"
// and the control tokens "<s>", "<|im_end|>".
struct TinyIds {
  static constexpr int kAb = 256, kAbc = 257, kTool = 258, kBos = 259, kEnd = 260;
};

inline GgufTokenizer TinyGguf() {
  GgufTokenizer gguf{.model = "gpt2", .pre = "gpt-2"};
  int next = 0x100;  // the byte-level alphabet: bytes that do not print stand from U+0100 on
  for (int byte = 0; byte < 256; ++byte) {
    const bool prints = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte != 0xAD);
    gguf.tokens.push_back(Utf8(prints ? byte : next++));
  }
  gguf.token_types.assign(256, 1);
  for (const char* text : {"ab", "abc", "<tool>", "<s>", "<|im_end|>"}) gguf.tokens.push_back(text);
  for (int type : {1, 1, 4, 3, 3}) gguf.token_types.push_back(type);
  gguf.merges = {"a b", "ab c"};
  gguf.bos_id = TinyIds::kBos;
  gguf.eos_id = TinyIds::kEnd;
  gguf.chat_template = "{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}";
  return gguf;
}

inline std::shared_ptr<const Tokenizer> TinyTokenizer() {
  static const auto tokenizer = Tokenizer::FromGguf(TinyGguf());
  return tokenizer ? *tokenizer : nullptr;
}

}  // namespace tangram
