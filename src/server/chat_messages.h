#pragma once

#include "server/json_fields.h"
#include "server/openai_request.h"

namespace tangram::server {

// Checks a conversation and puts it into `request` (messages, last_role, last_content, later_turn).
// Content given in parts becomes one string, the parts' texts joined by newlines, which is what
// templates expect; parts that are not text are refused. Other members of a message go to the
// template as they are.
Status ReadChatMessages(const Json& messages, OpenAiRequest* request);

}  // namespace tangram::server
