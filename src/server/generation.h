#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "server/metrics.h"
#include "server/openai_reply.h"
#include "server/openai_request.h"
#include "server/prompts.h"
#include "server/server.h"
#include "text/stream_decoder.h"

namespace tangram::server {

// One HTTP request for text while it is with the engine: a choice for each prompt, each an engine
// request of its own. Turns their tokens into one stream of deltas. Used on the server's thread.
class Generation {
 public:
  using Clock = std::chrono::steady_clock;

  struct Setup {
    OpenAiRequest request;
    std::vector<PreparedPrompt> prompts;
    std::string id;  // of the reply
    std::shared_ptr<const ServedModel> model;
    std::shared_ptr<HttpReply> http;
    Metrics* metrics;
    Clock::time_point received;
  };
  // Makes the listener of a choice.
  using ListenerFactory = std::function<TokenListener(int choice)>;

  explicit Generation(Setup setup);

  // Hands all choices to the engine; if it refuses one, all are taken back and the client told.
  Status Submit(const ListenerFactory& make_listener);
  void OnEvent(int choice, const TokenEvent& event);
  // The client has gone: nothing more is said.
  void Cancel();
  // Ends what still runs with a last frame, finish_reason "abort".
  void EndWithAbort();
  // A comment in the stream, which keeps proxies from closing it during a long prefill.
  void Ping() { reply_.Ping(); }
  // The reply is complete, or there is nobody to read it.
  bool done() const { return done_; }

 private:
  struct Choice {
    RequestId engine_id = 0;
    StreamDecoder decoder;
    Usage usage;
    std::string echo;  // sent with the first delta
    RequestRecord record;
    Clock::time_point last_token{};
    bool finished = false;
  };

  StopParams StopOf(size_t choice) const;
  bool IsOwnStopToken(TokenId id) const;
  void Time(const TokenEvent& event, Choice* choice);
  Delta Decode(const TokenEvent& event, Choice* choice);
  void Finish(FinishReason reason, Choice* choice);
  void Deliver(int index, Delta delta);
  void Fail(const Error& error);
  void AbortRunning();
  Usage TotalUsage() const;

  OpenAiRequest request_;
  std::vector<PreparedPrompt> prompts_;
  std::shared_ptr<const ServedModel> model_;
  Metrics* metrics_;
  Clock::time_point received_;
  OpenAiReply reply_;
  std::vector<Choice> choices_;
  size_t num_finished_ = 0;
  bool done_ = false;
};

}  // namespace tangram::server
