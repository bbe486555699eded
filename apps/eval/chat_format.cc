#include "eval/chat_format.h"

#include <nlohmann/json.hpp>
#include <vector>

namespace tangram::apps::eval {

Result<ChatFormat> ReadChatFormat(const ChatTemplate* chat_template) {
  if (chat_template == nullptr) return ChatFormat{"", "\n", "\n\n"};
  const std::string marks[] = {"FIRST-MARK", "SECOND-MARK", "THIRD-MARK"};
  ChatInput input;
  input.messages = nlohmann::json::array({{{"role", "user"}, {"content", marks[0]}},
                                          {{"role", "assistant"}, {"content", marks[1]}},
                                          {{"role", "user"}, {"content", marks[2]}}})
                       .dump();
  TANGRAM_ASSIGN_OR_RETURN(const std::string rendered, chat_template->Render(input));
  std::vector<std::string> between;
  size_t at = 0;
  for (const std::string& mark : marks) {
    const size_t found = rendered.find(mark, at);
    if (found == std::string::npos) {
      return MakeError(ErrorKind::kUnsupported,
                       "the chat template rewrites the turns of a conversation, so that nothing "
                       "can be asked on a kept cache; give another with --chat-template");
    }
    between.push_back(rendered.substr(at, found - at));
    at = found + mark.size();
  }
  return ChatFormat{between[0], rendered.substr(at), between[2]};
}

}  // namespace tangram::apps::eval
