// HTTP as clients and proxies speak it.
#include "unit/server/server_fixture.h"

namespace tangram::testing {
namespace {

TEST_F(ServerTest, KeepsConnections) {
  Start();
  HttpClient client = HttpClient(server_->port());
  for (int i = 0; i < 5; ++i) {
    Json request = Prompt("ab", 3);
    request["stream"] = i % 2 == 0;
    EXPECT_EQ(client.Post("/v1/completions", request.dump()).status, 200);
    EXPECT_EQ(client.Request("GET", "/health").status, 200);
  }
  // Two at once are answered in order.
  const std::string one = PostText("/v1/completions", Prompt("ab", 3).dump());
  ASSERT_TRUE(client.Send(one + "GET /version HTTP/1.1\r\nHost: x\r\n\r\n"));
  EXPECT_NE(client.ReadResponse().body.find("aba"), std::string::npos);
  EXPECT_NE(client.ReadResponse().body.find("version"), std::string::npos);
  ASSERT_TRUE(client.Send("GET /health HTTP/1.0\r\n\r\n"));
  EXPECT_EQ(client.ReadResponse().headers.at("connection"), "close");
}

TEST_F(ServerTest, StreamsToHttp10WithoutChunks) {
  Start();
  Json request = Prompt("ab", 3);
  request["stream"] = true;
  const std::string body = request.dump();
  HttpClient client(server_->port());
  client.Send(
      "POST /v1/completions HTTP/1.0\r\nContent-Type: application/json\r\n"
      "Content-Length: " +
      std::to_string(body.size()) + "\r\n\r\n" + body);
  const HttpResult result = client.ReadResponse();
  EXPECT_FALSE(result.headers.contains("transfer-encoding"));
  EXPECT_EQ(Events(result.body).size(), 3u);
}

TEST_F(ServerTest, ExpectContinueAndChunkedBodies) {
  Start();
  const std::string body = Prompt("ab", 3).dump();
  HttpClient client(server_->port());
  client.Send(
      "POST /v1/completions HTTP/1.1\r\nContent-Type: application/json\r\n"
      "Expect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n");
  ASSERT_TRUE(client.ReadUntil("HTTP/1.1 100 Continue\r\n\r\n"));
  client.Send("5\r\n" + body.substr(0, 5) + "\r\n");
  client.Send(std::to_string(0) + std::string());
  // The "0" begins the size of the second chunk: sizes may have leading zeros.
  char size[16];
  std::snprintf(size, sizeof size, "%zx", body.size() - 5);
  client.Send(size + std::string("\r\n") + body.substr(5) + "\r\n0\r\n\r\n");
  EXPECT_EQ(client.ReadResponse().status, 200);
}

TEST_F(ServerTest, PingsKeepSilentStreamsOpen) {
  Start(
      {.sse_ping_interval = std::chrono::milliseconds(20)},
      {.step_time = std::chrono::milliseconds(1), .prefill_time = std::chrono::milliseconds(200)});
  Json request = ChatBody("x");
  request["stream"] = true;
  const HttpResult result = Post("/v1/chat/completions", request);
  EXPECT_TRUE(result.body.starts_with(": ping\n\n"));
  EXPECT_GT(Events(result.body).size(), 2u);
}

TEST_F(ServerTest, OnlyTheAdminKeyResetsThePrefixCache) {
  const auto reset = [&](const std::string& authorization) {
    return Client().Request("POST", "/reset_prefix_cache", "", {{"Authorization", authorization}});
  };
  Start({.api_keys = {"user"}});
  const HttpResult off = reset("Bearer user");
  EXPECT_EQ(off.status, 403);
  EXPECT_NE(off.body.find("--admin-api-key"), std::string::npos) << off.body;

  StartListening({.api_keys = {"user"}, .admin_api_key = "admin"});
  EXPECT_EQ(reset("Bearer user").status, 401);
  EXPECT_EQ(reset("").status, 401);
  EXPECT_EQ(reset("Bearer admin").status, 503) << "no model is loaded";
  SetReady();
  EXPECT_EQ(engine_->num_clears(), 0);
  EXPECT_EQ(reset("Bearer admin").status, 200);
  EXPECT_EQ(engine_->num_clears(), 1);
  const HttpResult got =
      Client().Request("GET", "/reset_prefix_cache", "", {{"Authorization", "Bearer admin"}});
  EXPECT_EQ(got.status, 405);
  EXPECT_EQ(Get("/v1/models").status, 401) << "other endpoints ask for their own key";
}

TEST_F(ServerTest, SlowRequestsAreCutOff) {
  // Each by its own limit: the others are far away.
  constexpr std::chrono::milliseconds kNear(300), kFar = std::chrono::hours(1);
  const server::ServerConfig far{
      .keep_alive_timeout = kFar, .header_timeout = kFar, .body_timeout = kFar};
  const std::pair<std::chrono::milliseconds server::ServerConfig::*, const char*> cases[] = {
      {&server::ServerConfig::keep_alive_timeout, ""},
      {&server::ServerConfig::header_timeout, "GET /health HT"},
      {&server::ServerConfig::body_timeout,
       "POST /tokenize HTTP/1.1\r\nContent-Length: 100\r\n\r\n{"},
  };
  for (const auto& [limit, sent] : cases) {
    server::ServerConfig config = far;
    config.*limit = kNear;
    Start(config);
    HttpClient slow(server_->port());
    slow.Send(sent);
    EXPECT_TRUE(slow.Ended()) << sent;
  }
}

}  // namespace
}  // namespace tangram::testing
