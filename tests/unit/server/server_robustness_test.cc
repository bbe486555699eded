#include <future>

#include "unit/server/server_fixture.h"

// What clients do wrong, by accident or on purpose: the server answers clearly, holds nothing for
// them any more, and goes on.

namespace tangram::testing {
namespace {

using std::chrono::milliseconds;

std::string Body(const std::string& prompt, int max_tokens, bool stream) {
  return Json{{"prompt", prompt}, {"max_tokens", max_tokens}, {"stream", stream}}.dump();
}

// Tokens of an answer that nobody waits for: whatever ends it, it is not its length, however slow
// the machine.
constexpr int kEndless = 1'000'000'000;

class RobustnessTest : public ServerTest {
 protected:
  void Start(server::ServerConfig config = {}, FakeEngine::Options options = {}) {
    options.max_model_len = 2 * kEndless;
    ServerTest::Start(std::move(config), std::move(options));
  }
  // The server still answers, and the engine has nothing left to do.
  void ExpectGoesOn() {
    EXPECT_TRUE(EngineIsEmpty());
    EXPECT_EQ(Client().Post("/v1/completions", Body("ab", 3, false)).status, 200);
  }
};

TEST_F(RobustnessTest, MalformedRequestsAreAnswered) {
  Start();
  const std::vector<std::pair<std::string, int>> cases = {
      {"GARBAGE\r\n\r\n", 400},
      {"GET /health HTTP/9.9\r\n\r\n", 400},
      {"GET /hea lth HTTP/1.1\r\n\r\n", 400},
      {"GET /health HTTP/1.1\r\nBad Header: x\r\n\r\n", 400},
      {"POST /tokenize HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400},
      {"POST /tokenize HTTP/1.1\r\nContent-Length: 99999999999999999999999\r\n\r\n", 400},
      {"POST /tokenize HTTP/1.1\r\nContent-Length: 1x\r\n\r\n", 400},
      {"POST /tokenize HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", 400},
      {"POST /tokenize HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400},
      {"GET /health HTTP/1.1\r\nX: " + std::string(100'000, 'a') + "\r\n\r\n", 431},
      {"POST /tokenize HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n", 413},
  };
  for (const auto& [text, status] : cases) {
    HttpClient client(server_->port());
    client.Send(text);
    const HttpResult result = client.ReadResponse();
    EXPECT_EQ(result.status, status) << text.substr(0, 80);
    EXPECT_TRUE(Json::parse(result.body)["error"]["message"].is_string());
    EXPECT_EQ(result.headers.at("connection"), "close");
  }
  ExpectGoesOn();
}

TEST_F(RobustnessTest, OversizedBodiesAreRefused) {
  Start({.max_body_size = 1000});
  EXPECT_EQ(Client().Post("/v1/completions", Body(std::string(2000, 'a'), 1, false)).status, 413);
  // All of a large body is taken in, so that the client gets to read the answer.
  EXPECT_EQ(Client().Post("/v1/completions", std::string(3'000'000, ' ')).status, 413);
  HttpClient chunked(server_->port());
  chunked.Send("POST /tokenize HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n7d0\r\n" +
               std::string(2000, 'a'));
  EXPECT_EQ(chunked.ReadResponse().status, 413);
  EXPECT_EQ(Client().Post("/v1/completions", Body(std::string(500, 'a'), 1, false)).status, 200);
}

TEST_F(RobustnessTest, BadJsonIsRefused) {
  Start();
  for (const std::string& body : {std::string("{"), std::string("[]"), std::string(1000, '['),
                                  std::string("{\"a\":\"\xff\"}"),
                                  std::string("{\"prompt\":\"\0\"}", 14), std::string("null")}) {
    for (const char* path :
         {"/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize"}) {
      EXPECT_EQ(Client().Post(path, body).status, 400) << path << " " << body.substr(0, 20);
    }
  }
  ExpectGoesOn();
}

TEST_F(RobustnessTest, TwoHundredIdleConnections) {
  Start();
  std::vector<std::unique_ptr<HttpClient>> idle;
  for (int i = 0; i < 250; ++i) {
    idle.push_back(std::make_unique<HttpClient>(server_->port()));
    ASSERT_TRUE(idle.back()->connected());
    if (i % 3 == 0) idle.back()->Send("POST /v1/comple");  // and says no more
  }
  ExpectGoesOn();
  EXPECT_EQ(idle[1]->Post("/v1/completions", Body("ab", 3, false)).status, 200);
}

TEST_F(RobustnessTest, TooManyConnections) {
  Start({.max_connections = 3});
  std::vector<std::unique_ptr<HttpClient>> clients;
  for (int i = 0; i < 3; ++i) {
    clients.push_back(std::make_unique<HttpClient>(server_->port()));
    EXPECT_EQ(clients.back()->Request("GET", "/health").status, 200);
  }
  HttpClient extra(server_->port());
  const HttpResult refused = extra.ReadResponse();
  EXPECT_EQ(refused.status, 503);
  EXPECT_TRUE(refused.headers.contains("retry-after"));
  clients.pop_back();
  EXPECT_TRUE(Eventually([&] { return Get("/health").status == 200; }));
}

TEST_F(RobustnessTest, SlowReadersAreCutOff) {
  // Steps take a while, so that a server that is late has not too many tokens to catch up with.
  Start({.max_output_buffer = 64 << 10}, {.step_time = std::chrono::microseconds(20)});
  HttpClient slow(server_->port(), 4096);
  slow.Send(PostText("/v1/completions", Body("ab", kEndless, true)));
  ASSERT_TRUE(slow.ReadUntil("data: "));
  EXPECT_TRUE(EngineIsEmpty());  // aborted
  ExpectGoesOn();
}

TEST_F(RobustnessTest, ReadersThatTakeNothingAreCutOff) {
  Start({.max_connections = 1, .write_timeout = milliseconds(300)});
  HttpClient stalled(server_->port(), 4096);
  // A whole reply is not limited in size, but must be taken.
  Json request = {{"prompt", "ab"}, {"max_tokens", 100'000}, {"logprobs", 5}};
  stalled.Send(PostText("/v1/completions", request.dump()));
  EXPECT_TRUE(Eventually([&] { return Get("/health").status == 200; }))
      << "the one connection there may be is still open";
  EXPECT_EQ(engine_->Stats().generation_tokens, 100'000u);
  size_t got = 0;
  for (std::string piece; !(piece = stalled.Read(1 << 20)).empty();) got += piece.size();
  EXPECT_LT(got, 10'000'000u);
  EXPECT_TRUE(Eventually(
      [&] { return Client().Post("/v1/completions", Body("ab", 3, false)).status == 200; }));
}

TEST_F(RobustnessTest, DisconnectsAbort) {
  Start({}, {.step_time = milliseconds(1), .prefill_time = milliseconds(100)});
  for (const bool stream : {true, false}) {
    HttpClient in_prefill(server_->port());
    in_prefill.Send(PostText("/v1/completions", Body("ab", kEndless, stream)));
    ASSERT_TRUE(Eventually([&] { return engine_->Stats().num_running == 1; }));
    in_prefill.Close();
    EXPECT_TRUE(EngineIsEmpty());
  }
  HttpClient in_stream(server_->port());
  in_stream.Send(PostText("/v1/completions", Body("ab", kEndless, true)));
  ASSERT_TRUE(in_stream.ReadUntil("data: "));
  in_stream.Close();
  EXPECT_TRUE(EngineIsEmpty());
  HttpClient in_decode(server_->port());
  in_decode.Send(PostText("/v1/completions", Body("ab", kEndless, false)));
  ASSERT_TRUE(Eventually([&] { return engine_->Stats().logical_tokens > 10; }));
  in_decode.Close();
  EXPECT_TRUE(EngineIsEmpty());
  ExpectGoesOn();
  EXPECT_NE(Get("/metrics").body.find("finished_reason=\"abort\"} 4"), std::string::npos);
}

TEST_F(RobustnessTest, CancellationStorm) {
  Start({}, {.step_time = milliseconds(1)});
  std::vector<std::unique_ptr<HttpClient>> clients;
  for (int i = 0; i < 200; ++i) {
    clients.push_back(std::make_unique<HttpClient>(server_->port()));
    ASSERT_TRUE(
        clients.back()->Send(PostText("/v1/completions", Body("ab", kEndless, i % 2 == 0))));
  }
  ASSERT_TRUE(Eventually([&] { return engine_->Stats().generation_tokens > 1000; }));
  clients.clear();
  ExpectGoesOn();
}

TEST_F(RobustnessTest, AFullQueueIsSaid) {
  Start({}, {.max_running = 1, .max_queued = 2, .step_time = milliseconds(1)});
  std::vector<std::unique_ptr<HttpClient>> clients;
  for (int i = 0; i < 3; ++i) {
    clients.push_back(std::make_unique<HttpClient>(server_->port()));
    clients.back()->Send(PostText("/v1/completions", Body("ab", kEndless, true)));
    ASSERT_TRUE(Eventually([&] {
      const EngineStats stats = engine_->Stats();
      return stats.num_running + stats.num_waiting == i + 1;
    }));
  }
  for (const bool stream : {true, false}) {
    const HttpResult result = Client().Post("/v1/completions", Body("ab", 3, stream));
    EXPECT_EQ(result.status, 503);
    EXPECT_EQ(result.headers.at("retry-after"), "1");
    EXPECT_EQ(Json::parse(result.body)["error"]["type"], "ServiceUnavailableError");
  }
  EXPECT_NE(Get("/metrics").body.find("tangram:requests_rejected_total{reason=\"queue_full\"} 2"),
            std::string::npos);
  clients.clear();
  // All prompts of a request go in, or none.
  EXPECT_TRUE(EngineIsEmpty());
  const Json many = {{"prompt", {"a", "b", "c", "d", "e"}}, {"max_tokens", 1000}};
  EXPECT_EQ(Client().Post("/v1/completions", many.dump()).status, 503);
  ExpectGoesOn();
}

TEST_F(RobustnessTest, EngineFailuresReachTheClient) {
  Start({}, {.step_time = milliseconds(1)});
  HttpClient stream(server_->port()), plain(server_->port());
  stream.Send(PostText("/v1/completions", Body("ab", kEndless, true)));
  plain.Send(PostText("/v1/completions", Body("ab", kEndless, false)));
  ASSERT_TRUE(Eventually([&] {
    return engine_->Stats().num_running == 2 && engine_->Stats().generation_tokens > 20;
  }));
  auto ended = std::async(std::launch::async, [&] { return server_->Run(); });
  engine_->Die();
  const HttpResult whole = plain.ReadResponse();
  EXPECT_EQ(whole.status, 500);
  EXPECT_EQ(Json::parse(whole.body)["error"]["code"], 500);
  EXPECT_TRUE(Events(stream.ReadResponse().body).back().contains("error"));
  const Status status = ended.get();
  ASSERT_FALSE(status.has_value());
  EXPECT_EQ(status.error().kind, ErrorKind::kInternal);
}

TEST_F(RobustnessTest, ShutdownDrains) {
  Start({}, {.step_time = milliseconds(1)});
  HttpClient stream(server_->port()), idle(server_->port());
  ASSERT_EQ(idle.Request("GET", "/health").status, 200);
  stream.Send(PostText("/v1/completions", Body("ab", 300, true)));
  ASSERT_TRUE(stream.ReadUntil("\r\n\r\n"));
  auto ended = std::async(std::launch::async, [&] { return server_->Run(); });
  server_->Shutdown();
  EXPECT_TRUE(idle.Ended());
  ASSERT_TRUE(stream.ReadUntil("\"finish_reason\":\"length\""));
  ASSERT_TRUE(stream.ReadUntil("data: [DONE]\n\n"));
  EXPECT_TRUE(ended.get().has_value());
  EXPECT_FALSE(HttpClient(server_->port()).connected());
}

TEST_F(RobustnessTest, ShutdownAbortsWhatTakesTooLong) {
  Start({.shutdown_timeout = milliseconds(200)}, {.step_time = milliseconds(5)});
  HttpClient stream(server_->port()), plain(server_->port());
  stream.Send(PostText("/v1/completions", Body("ab", kEndless, true)));
  plain.Send(PostText("/v1/completions", Body("ab", kEndless, false)));
  ASSERT_TRUE(Eventually([&] { return engine_->Stats().num_running == 2; }));
  auto ended = std::async(std::launch::async, [&] { return server_->Run(); });
  server_->Shutdown();
  EXPECT_TRUE(stream.ReadUntil("\"finish_reason\":\"abort\""));
  EXPECT_TRUE(stream.ReadUntil("data: [DONE]\n\n"));
  const HttpResult result = plain.ReadResponse();
  EXPECT_EQ(result.status, 200);
  EXPECT_EQ(Json::parse(result.body)["choices"][0]["finish_reason"], "abort");
  EXPECT_EQ(result.headers.at("connection"), "close");
  EXPECT_TRUE(ended.get().has_value());
  EXPECT_TRUE(EngineIsEmpty());
}

TEST_F(RobustnessTest, ShutdownUnderLoad) {
  Start({.shutdown_timeout = milliseconds(300)}, {.step_time = milliseconds(1)});
  const int port = server_->port();
  std::atomic<bool> stop = false;
  std::atomic<int> answered = 0;
  std::vector<std::thread> threads;
  for (int i = 0; i < 8; ++i) {
    threads.emplace_back([&, i] {
      while (!stop) {
        HttpClient client(port);
        if (!client.connected()) continue;
        client.Send(PostText("/v1/completions", Body("ab", 20 + 400 * (i % 3), i % 2 == 0)));
        if (client.ReadResponse().status != 0) ++answered;
      }
    });
  }
  EXPECT_TRUE(Eventually([&] { return answered > 50; }));
  server_->Shutdown();
  EXPECT_TRUE(server_->Run().has_value());
  server_.reset();
  stop = true;
  for (std::thread& thread : threads) thread.join();
  EXPECT_TRUE(EngineIsEmpty());
}

TEST_F(RobustnessTest, EndsAtOnceWithRequestsInFlight) {
  Start({}, {.step_time = milliseconds(1), .prefill_time = milliseconds(1000)});
  HttpClient client(server_->port());
  client.Send(PostText("/v1/completions", Body("ab", kEndless, true)));
  ASSERT_TRUE(Eventually([&] { return engine_->Stats().num_running == 1; }));
  server_.reset();
  EXPECT_TRUE(client.Ended());
}

}  // namespace
}  // namespace tangram::testing
