#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "server/server_config.h"

namespace tangram {
class ChatTemplate;
class Engine;
class Tokenizer;
}  // namespace tangram

namespace tangram::server {

// What is served, once it is loaded.
struct ServedModel {
  std::shared_ptr<Engine> engine;
  std::shared_ptr<const Tokenizer> tokenizer;
  std::shared_ptr<const ChatTemplate> chat_template;  // may be null: chat is then answered 400
  std::vector<std::string> names;  // --served-model-name; the first labels metrics and replies
  std::string path;                // what was loaded; `root` of /v1/models
};

// The OpenAI API over HTTP. Order: Listen, then SetReady when the model is loaded (from any
// thread), then Run.
class Server {
 public:
  explicit Server(ServerConfig config);
  ~Server();  // ends at once what still runs

  // Binds the port and answers from then on: /livez 200, everything else 503 "Loading model". A
  // signal before SetReady ends the process with exit code 0. kInvalidArgument if the address
  // cannot be bound.
  Status Listen();
  // The port that is listened on, after Listen.
  int port() const;
  void SetReady(ServedModel model);
  // Waits for SIGTERM, SIGINT or Shutdown, then drains: /health 503, no new connections or
  // requests, those in flight get shutdown_timeout to finish, the rest a last frame with
  // finish_reason "abort". kInternal if the engine died.
  Status Run();
  // Makes Run drain and return. From any thread, not from a signal handler.
  void Shutdown();

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace tangram::server
