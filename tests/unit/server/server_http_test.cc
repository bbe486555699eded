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

}  // namespace
}  // namespace tangram::testing
