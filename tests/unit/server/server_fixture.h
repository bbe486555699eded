#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>

#include "server/server.h"
#include "support/byte_tokenizer.h"
#include "support/fake_engine.h"
#include "support/http_client.h"

namespace tangram::testing {

using Json = nlohmann::ordered_json;

// The fake engine answers with the prompt itself: "ab" with 5 tokens is "ababa".
inline Json Prompt(const std::string& prompt, int max_tokens) {
  return {{"model", "fake"}, {"prompt", prompt}, {"max_tokens", max_tokens}};
}

inline Json ChatBody(const std::string& content) {
  return {{"messages", Json::array({{{"role", "user"}, {"content", content}}})}};
}

// A server on a free port, over a FakeEngine and the byte tokenizer.
class ServerTest : public ::testing::Test {
 protected:
  void StartListening(server::ServerConfig config = {}) {
    config.host = "127.0.0.1";
    config.port = 0;
    config.handle_signals = false;
    config.access_log = false;
    server_ = std::make_unique<server::Server>(config);
    ASSERT_TRUE(server_->Listen().has_value());
  }

  void Start(server::ServerConfig config = {}, FakeEngine::Options options = {}) {
    StartListening(std::move(config));
    SetReady(std::move(options));
  }

  void SetReady(FakeEngine::Options options = {}) {
    engine_ = std::make_shared<FakeEngine>(std::move(options));
    server_->SetReady({.engine = engine_,
                       .tokenizer = ByteTokenizer(),
                       .chat_template = ByteChatTemplate(),
                       .names = {"fake", "alias"},
                       .path = "/models/fake"});
  }

  HttpClient Client() { return HttpClient(server_->port()); }
  HttpResult Post(const std::string& path, const Json& body) {
    return Client().Post(path, body.dump());
  }
  HttpResult Get(const std::string& path) { return Client().Request("GET", path); }

  // The events of a stream; the last must be [DONE].
  static std::vector<Json> Events(const std::string& body) {
    std::vector<Json> events;
    bool done = false;
    for (size_t at = 0; at < body.size();) {
      const size_t end = body.find("\n\n", at);
      const std::string line = body.substr(at, end - at);
      at = end == std::string::npos ? body.size() : end + 2;
      if (line.starts_with(":")) continue;
      EXPECT_TRUE(line.starts_with("data: ")) << line;
      EXPECT_FALSE(done) << "after [DONE]: " << line;
      if (line == "data: [DONE]") {
        done = true;
      } else {
        events.push_back(Json::parse(line.substr(6)));
      }
    }
    EXPECT_TRUE(done) << body;
    return events;
  }

  // Within a minute, which only a test that fails takes.
  static bool Eventually(const std::function<bool()>& condition) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::minutes(1);
    while (!condition()) {
      if (std::chrono::steady_clock::now() > end) return false;
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    return true;
  }

  bool EngineIsEmpty() {
    return Eventually([this] { return engine_->Stats().logical_tokens == 0; });
  }

  std::shared_ptr<FakeEngine> engine_;
  std::unique_ptr<server::Server> server_;  // ends before the engine does
};

}  // namespace tangram::testing
