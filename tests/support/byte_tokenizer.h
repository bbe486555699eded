#pragma once

#include <memory>
#include <string>

#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace tangram::testing {

inline constexpr int kEndOfText = 256, kImStart = 257, kImEnd = 258, kByteVocab = 259;

// A byte-level vocabulary without merges: the id of a byte's token is the byte; three special
// tokens follow. What a text becomes can be told by looking at it.
GgufTokenizer ByteVocabulary();
std::shared_ptr<const Tokenizer> ByteTokenizer();
// ChatML, over the same vocabulary.
std::shared_ptr<const ChatTemplate> ByteChatTemplate();

}  // namespace tangram::testing
