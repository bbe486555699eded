#include <gtest/gtest.h>

#include <semaphore>

#include "client/openai_client.h"
#include "client/sse_reader.h"
#include "unit/apps/fake_server.h"

namespace tangram::apps::client {
namespace {

using tangram::testing::FakeServer;

std::string Body(const std::string& json) {
  return "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: " +
         std::to_string(json.size()) + "\r\n\r\n" + json;
}

std::string Chunk(const std::string& bytes) {
  char size[16];
  std::snprintf(size, sizeof size, "%zx\r\n", bytes.size());
  return size + bytes + "\r\n";
}

const std::string kStreamHead =
    "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n"
    "Transfer-Encoding: chunked\r\n\r\n";

OpenAiClient ClientOf(const FakeServer& server) {
  return OpenAiClient(*ParseUrl(server.url()), "secret");
}

TEST(Url, Parts) {
  const auto url = ParseUrl("http://example.org:81/a/v1/");
  ASSERT_TRUE(url);
  EXPECT_EQ(url->host, "example.org");
  EXPECT_EQ(url->port, "81");
  EXPECT_EQ(url->prefix, "/a");
  EXPECT_EQ(ParseUrl("localhost:8000")->port, "8000");
  EXPECT_EQ(ParseUrl("http://[::1]:9/")->host, "::1");
  for (const char* text : {"", "https://a", "http://", "http://a:x", "http://a:0", "http://[::1"}) {
    EXPECT_FALSE(ParseUrl(text)) << text;
  }
}

TEST(SseReader, AnyCutGivesTheSamePayloads) {
  const std::string text = ": ping\r\n\r\ndata: a\n\nevent: x\ndata:b\r\n\r\ndata: c d\n\n";
  for (size_t cut = 0; cut <= text.size(); ++cut) {
    SseReader reader;
    std::vector<std::string> found;
    const auto keep = [&](std::string_view data) { found.emplace_back(data); };
    reader.Push(text.substr(0, cut), keep);
    reader.Push(text.substr(cut), keep);
    EXPECT_EQ(found, (std::vector<std::string>{"a", "b", "c d"})) << cut;
  }
}

TEST(OpenAiClient, StreamsTextAndUsage) {
  const std::string frames =
      R"(data: {"choices":[{"delta":{"role":"assistant","content":""}}]})"
      "\n\n"
      R"(data: {"choices":[{"delta":{"content":"Hel"}}],"usage":null})"
      "\n\n"
      R"(data: {"choices":[{"delta":{"content":"lo"},"finish_reason":"stop"}]})"
      "\n\n"
      R"(data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":2,)"
      R"("prompt_tokens_details":{"cached_tokens":5},)"
      R"("kv":{"logical_tokens":9,"resident_tokens":4}}})"
      "\n\ndata: [DONE]\n\n";
  FakeServer server({{{kStreamHead, Chunk(frames.substr(0, 70)), Chunk(frames.substr(70, 3)),
                       Chunk(frames.substr(73)), "0\r\n\r\n"}}});
  OpenAiClient client = ClientOf(server);
  std::string pieces;
  const auto answer =
      client.Stream("/v1/chat/completions", {{"model", "m"}}, [&](const std::string& text) {
        pieces += "[" + text + "]";
        return true;
      });
  ASSERT_TRUE(answer) << answer.error().message;
  EXPECT_EQ(answer->text, "Hello");
  EXPECT_EQ(pieces, "[Hel][lo]");
  EXPECT_EQ(answer->finish_reason, "stop");
  EXPECT_EQ(answer->num_chunks, 3);
  EXPECT_EQ(answer->chunk_gaps.size(), 2u);
  EXPECT_EQ(answer->prompt_tokens, 7);
  EXPECT_EQ(answer->output_tokens, 2);
  EXPECT_EQ(answer->cached_tokens, 5);
  EXPECT_EQ(answer->logical_tokens, 9);
  EXPECT_EQ(answer->resident_tokens, 4);
  EXPECT_GT(answer->first_chunk_seconds, 0);
  EXPECT_GE(answer->last_chunk_seconds, answer->first_chunk_seconds);
}

TEST(OpenAiClient, StampsChunksWhenTheyCome) {
  // A frame is sent when the one before it has been read, and some time has passed.
  constexpr double kPause = 0.01;
  std::counting_semaphore<3> read(0);
  const std::string frame = Chunk("data: {\"choices\":[{\"text\":\"x\"}]}\n\n");
  FakeServer server({{{kStreamHead + frame, frame, frame, "0\r\n\r\n"}}}, [&] {
    EXPECT_TRUE(read.try_acquire_for(std::chrono::minutes(1)));
    std::this_thread::sleep_for(std::chrono::duration<double>(kPause));
  });
  OpenAiClient client = ClientOf(server);
  const auto answer =
      client.Stream("/v1/completions", nlohmann::json::object(), [&](const std::string&) {
        read.release();
        return true;
      });
  ASSERT_TRUE(answer) << answer.error().message;
  ASSERT_EQ(answer->num_chunks, 3);
  ASSERT_EQ(answer->chunk_gaps.size(), 2u);
  for (const double gap : answer->chunk_gaps) EXPECT_GE(gap, kPause);
  EXPECT_NEAR(answer->last_chunk_seconds - answer->first_chunk_seconds,
              answer->chunk_gaps[0] + answer->chunk_gaps[1], 1e-9);
}

TEST(OpenAiClient, SendsTheKeyAndAsksForUsage) {
  std::string request;
  {
    auto server = std::make_unique<FakeServer>(std::vector<std::vector<FakeServer::Pieces>>{
        {{kStreamHead, Chunk("data: {\"choices\":[{\"text\":\"x\"}]}\n\n"), "0\r\n\r\n"}}});
    OpenAiClient client = ClientOf(*server);
    ASSERT_TRUE(client.Stream("/v1/completions", {{"prompt", "\xff"}}));
    request = server->requests().at(0);
  }
  EXPECT_NE(request.find("POST /v1/completions HTTP/1.1"), std::string::npos);
  EXPECT_NE(request.find("Authorization: Bearer secret"), std::string::npos);
  EXPECT_NE(request.find("\"include_usage\":true"), std::string::npos);
}

TEST(OpenAiClient, TellsErrorsInTheServersWords) {
  const std::string error = R"({"error":{"message":"too long","code":400}})";
  FakeServer server({{{"HTTP/1.1 400 Bad Request\r\nContent-Length: " +
                       std::to_string(error.size()) + "\r\n\r\n" + error},
                      {kStreamHead, Chunk("data: " + error + "\n\n"), "0\r\n\r\n"}}});
  OpenAiClient client = ClientOf(server);
  const auto refused = client.Stream("/v1/completions", nlohmann::json::object());
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().message, "HTTP 400: too long");
  const auto broken = client.Stream("/v1/completions", nlohmann::json::object());
  ASSERT_FALSE(broken);
  EXPECT_EQ(broken.error().message, "too long");
}

TEST(OpenAiClient, ABrokenStreamIsAnError) {
  FakeServer server({{{kStreamHead, Chunk("data: {\"choices\":[{\"text\":\"x\"}]}\n\n")}}});
  OpenAiClient client = ClientOf(server);
  EXPECT_FALSE(client.Stream("/v1/completions", nlohmann::json::object()));
}

TEST(HttpClient, KeepsTheConnectionAndOpensAnotherWhenItWasClosed) {
  FakeServer server({{{Body("1")}, {Body("2")}}, {{Body("3")}}});
  HttpClient client(*ParseUrl(server.url()), "");
  for (const char* expected : {"1", "2", "3"}) {
    const auto reply = client.Get("/x");
    ASSERT_TRUE(reply) << reply.error().message;
    EXPECT_EQ(reply->body, expected);
  }
}

TEST(HttpClient, NoServerIsAnError) {
  HttpClient client(*ParseUrl("http://127.0.0.1:1"), "");
  const auto reply = client.Get("/health");
  ASSERT_FALSE(reply);
  EXPECT_EQ(reply.error().kind, ErrorKind::kUnavailable);
}

}  // namespace
}  // namespace tangram::apps::client
