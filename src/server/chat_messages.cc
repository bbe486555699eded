#include "server/chat_messages.h"

#include <fmt/format.h>

#include <algorithm>

namespace tangram::server {
namespace {

tl::unexpected<Error> Bad(size_t index, std::string_view what) {
  return MakeError(ErrorKind::kInvalidArgument, fmt::format("[{}] {}", index, what), "messages");
}

// The text of a part of a message: {"type": "text", "text": ...}, or a plain string.
Result<std::string> PartText(const Json& part, size_t index) {
  if (part.is_string()) return part.get<std::string>();
  if (!part.is_object()) return Bad(index, "has a content part that is not an object");
  const Json type = part.value("type", Json("text"));
  if (type != "text" && type != "input_text" && type != "output_text" && type != "refusal") {
    return Bad(index, "has a content part that is not text, which this model cannot read");
  }
  const auto text = part.find(type == "refusal" ? "refusal" : "text");
  if (text == part.end() || !text->is_string()) {
    return Bad(index, "has a content part without a text");
  }
  return text->get<std::string>();
}

Result<std::string> JoinParts(const Json& parts, size_t index) {
  std::string joined;
  for (const Json& part : parts) {
    TANGRAM_ASSIGN_OR_RETURN(const std::string text, PartText(part, index));
    if (!joined.empty()) joined += '\n';
    joined += text;
  }
  return joined;
}

Status ReadMessage(size_t index, Json* message) {
  if (!message->is_object()) return Bad(index, "must be an object");
  const auto role = message->find("role");
  if (role == message->end() || !role->is_string() || *role == "") {
    return Bad(index, "must have a `role` that is a string");
  }
  const auto content = message->find("content");
  if (content == message->end() || content->is_null()) {
    if (!message->contains("tool_calls")) return Bad(index, "must have a `content`");
    // An assistant that only called tools has said nothing; templates read the field all the same.
    (*message)["content"] = "";
    return {};
  }
  if (content->is_array()) {
    TANGRAM_ASSIGN_OR_RETURN(*content, JoinParts(*content, index));
  } else if (!content->is_string()) {
    return Bad(index, fmt::format("has a `content` that is {}: it must be a string or an array of "
                                  "parts",
                                  JsonTypeName(*content)));
  }
  return {};
}

}  // namespace

Status ReadChatMessages(const Json& messages, OpenAiRequest* request) {
  if (!messages.is_array() || messages.empty()) {
    return MakeError(ErrorKind::kInvalidArgument, "must be an array of messages, and not empty",
                     "messages");
  }
  Json read = messages;
  for (size_t i = 0; i < read.size(); ++i) TANGRAM_RETURN_IF_ERROR(ReadMessage(i, &read[i]));
  const Json& last = read.back();
  request->last_role = last["role"].get<std::string>();
  const auto content = last.find("content");
  if (content != last.end() && content->is_string()) {
    request->last_content = content->get<std::string>();
  }
  request->later_turn =
      std::ranges::any_of(read, [](const Json& message) { return message["role"] == "assistant"; });
  request->messages = DumpJson(read);
  return {};
}

}  // namespace tangram::server
