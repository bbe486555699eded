#pragma once

#include <string>
#include <vector>

#include "eval/sample.h"
#include "text_model.h"

namespace tangram::apps::eval {

// The user's own conversations, one JSON object a line: {"messages": [{"role", "content"}, ...]}.
// Each becomes a sample of the task "conversations" in which the assistant's turns are scored.
// At most `count` (0: all), cut behind `max_tokens`. kInvalidArgument, naming file and line, for
// lines of another form, or without an assistant's turn; kUnsupported where the template changes
// what earlier turns look like.
Result<std::vector<EvalSample>> ReadConversations(const std::string& path, const TextModel& text,
                                                  int count, int max_tokens);

}  // namespace tangram::apps::eval
