#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "engine/token_event.h"
#include "server/http_server.h"
#include "server/openai_request.h"

namespace tangram {
class Tokenizer;
}  // namespace tangram

namespace tangram::server {

// What one token, or an answer's end, adds to a choice.
struct Delta {
  int choice = 0;
  std::string text;  // whole characters; may be empty
  std::vector<TokenId> tokens;
  std::vector<TokenEvent> logprobs;  // of the tokens, if asked for
  std::string finish_reason;         // empty: goes on
  // Why it stopped: nothing to say, the stop token, the stop string.
  std::variant<std::monostate, TokenId, std::string> stop_reason;
};

struct Usage {
  int prompt_tokens = 0, completion_tokens = 0, cached_tokens = 0;
  int logical_tokens = 0;      // in the KV cache, had nothing been dropped
  double resident_tokens = 0;  // that are there
  double ratio = 1;            // share that is kept, as asked for
};

// Writes a request's one stream of deltas as the OpenAI API has it: each at once as a server-sent
// event, or all together as one JSON body. Made and used on the server's thread.
class OpenAiReply {
 public:
  // `prompts`: the token ids of each choice's prompt, kept only if the client wants them.
  OpenAiReply(const OpenAiRequest& request, std::string id, std::string model,
              std::shared_ptr<const Tokenizer> tokenizer, std::shared_ptr<HttpReply> http,
              std::vector<std::vector<TokenId>> prompts);
  ~OpenAiReply();

  // `usage`: of this choice so far, for continuous_usage_stats.
  void Add(Delta delta, const Usage& usage);
  void Ping();
  // All choices have finished. `usage`: of all together.
  void Finish(const Usage& usage);
  // Ends the reply with an error: a status of its own if nothing was sent yet, else an event.
  void Fail(const Error& error);

 private:
  struct Writer;
  std::unique_ptr<Writer> writer_;
};

}  // namespace tangram::server
