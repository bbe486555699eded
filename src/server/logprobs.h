#pragma once

#include <vector>

#include "engine/token_event.h"
#include "server/json_fields.h"
#include "text/tokenizer.h"

namespace tangram::server {

struct LogprobFormat {
  const Tokenizer& tokenizer;
  bool tokens_as_ids = false;  // "token_id:17" in place of the token's text
};

// {"content": [{"token", "logprob", "bytes", "top_logprobs": [...]}, ...]}
Json ChatLogprobs(const std::vector<TokenEvent>& events, const LogprobFormat& format);

// {"tokens", "token_logprobs", "top_logprobs", "text_offset"}. `offset` is where the first token's
// text begins, in characters, and is moved on.
Json CompletionLogprobs(const std::vector<TokenEvent>& events, const LogprobFormat& format,
                        int* offset);

// Characters (code points) of UTF-8 text.
int CountCharacters(std::string_view text);

}  // namespace tangram::server
