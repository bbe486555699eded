#include "support/byte_tokenizer.h"

namespace tangram::testing {
namespace {

std::string Utf8(int code) {
  if (code < 0x80) return {static_cast<char>(code)};
  return {static_cast<char>(0xc0 | code >> 6), static_cast<char>(0x80 | (code & 0x3f))};
}

// The character that stands for a byte in byte-level vocabularies: itself if it prints, else one
// from 256 on (GPT-2's bytes_to_unicode).
bool Prints(int byte) {
  return (byte >= '!' && byte <= '~') || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
}

}  // namespace

GgufTokenizer ByteVocabulary() {
  GgufTokenizer source{.model = "gpt2", .pre = "gpt-2"};
  int next = 256;
  for (int byte = 0; byte < 256; ++byte) {
    source.tokens.push_back(Utf8(Prints(byte) ? byte : next++));
    source.token_types.push_back(1);
  }
  for (const char* special : {"<|endoftext|>", "<|im_start|>", "<|im_end|>"}) {
    source.tokens.push_back(special);
    source.token_types.push_back(3);
  }
  source.eos_id = kImEnd;
  source.chat_template =
      "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
      "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
  return source;
}

std::shared_ptr<const Tokenizer> ByteTokenizer() {
  return Tokenizer::FromGguf(ByteVocabulary()).value();
}

std::shared_ptr<const ChatTemplate> ByteChatTemplate() {
  return std::make_shared<const ChatTemplate>(ChatTemplate::FromGguf(ByteVocabulary()).value());
}

}  // namespace tangram::testing
