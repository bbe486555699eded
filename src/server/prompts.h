#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "server/openai_request.h"
#include "server/server.h"

namespace tangram::server {

// One prompt, ready for the engine.
struct PreparedPrompt {
  std::vector<TokenId> ids;
  int max_tokens = 0;
  std::string echo;  // what the answer begins with, if the request asks for that
};

// Renders the template and tokenizes, without regard to the length of the context. May take long.
Result<std::vector<std::vector<TokenId>>> TokenizePrompts(const OpenAiRequest& request,
                                                          const ServedModel& model);

// Fills sampling.bad_words: each word, and each with a space before it.
Status TokenizeBadWords(const ServedModel& model, OpenAiRequest* request);

// TokenizePrompts, then cuts to `truncate_prompt_tokens` and fits `max_tokens` into the context.
// What does not fit is kInvalidArgument, with "maximum context length is", which clients look for.
Result<std::vector<PreparedPrompt>> PreparePrompts(const OpenAiRequest& request,
                                                   const ServedModel& model);

}  // namespace tangram::server
