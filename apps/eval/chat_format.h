#pragma once

#include <string>

#include "base/result.h"
#include "text/chat_template.h"

namespace tangram::apps::eval {

// What a chat template writes around the texts of a conversation in which user and assistant take
// turns: `begin` text `to_assistant` text `to_user` text `to_assistant` ...
struct ChatFormat {
  std::string begin, to_assistant, to_user;
};

// Reads it off the template, or gives a plain format for a null one. kUnsupported if the template
// does not write turns that way.
Result<ChatFormat> ReadChatFormat(const ChatTemplate* chat_template);

}  // namespace tangram::apps::eval
