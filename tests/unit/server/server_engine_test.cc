// The server over the real engine with compression on: under ThreadSanitizer, a request's whole way
// through all threads.
#include <thread>

#include "support/compressed_session.h"
#include "unit/server/server_fixture.h"

namespace tangram::testing {
namespace {

class ServerEngineTest : public ServerTest {
 protected:
  void SetUp() override {
    StartListening();
    real_ = tangram::Start(TinyCompressed(0.3f, Scorer::kGate, BudgetLevel::kCrossLayer));
    server_->SetReady({.engine = real_,
                       .tokenizer = ByteTokenizer(),
                       .chat_template = ByteChatTemplate(),
                       .names = {"tiny"},
                       .path = "tiny"});
  }

  // Request `i` of a mixed load; the model knows the byte tokens below 64.
  static Json Body(int i, const std::string& salt) {
    Json body = {{"prompt", MakeRequest(static_cast<uint32_t>(i), 5 + i * 7 % 35, 1, 64).prompt},
                 {"max_tokens", 20},
                 {"temperature", 0},
                 {"ignore_eos", true},
                 {"return_token_ids", true},
                 {"cache_salt", salt}};
    if (i % 3 > 0) body["compression_ratio"] = i % 3 == 1 ? 0.5 : 1.0;
    return body;
  }
  Json Tokens(int i, const std::string& salt) {
    const HttpResult result = Post("/v1/completions", Body(i, salt));
    EXPECT_EQ(result.status, 200) << result.body;
    return Json::parse(result.body)["choices"][0]["token_ids"];
  }
  void LeaveMidStream(int i) {
    Json body = Body(i, "leaver");
    body["stream"] = true;
    HttpClient client(server_->port());
    client.Send(PostText("/v1/completions", body.dump()));
    EXPECT_TRUE(client.ReadUntil("data: "));
  }

  std::shared_ptr<Engine> real_;
};

TEST_F(ServerEngineTest, ManyClientsAtSeveralRatiosGetTheTokensOfOneAlone) {
  constexpr int kClients = 6, kRequests = 6;
  std::vector<Json> alone;
  for (int i = 0; i < kClients * kRequests; ++i) alone.push_back(Tokens(i, "alone"));
  std::vector<std::thread> clients;
  for (int c = 0; c < kClients; ++c) {
    clients.emplace_back([&, c] {
      for (int i = c; i < kClients * kRequests; i += kClients) {
        EXPECT_EQ(Tokens(i, "together"), alone[static_cast<size_t>(i)]) << i;
        if (i % 4 == 0) LeaveMidStream(i);
        EXPECT_EQ(Get("/metrics").status, 200);
      }
    });
  }
  for (std::thread& client : clients) client.join();
  EXPECT_TRUE(Eventually([&] {
    const EngineStats stats = real_->Stats();
    return stats.num_running == 0 && stats.num_waiting == 0 && stats.pages_held == 0;
  }));
  EXPECT_GT(real_->Stats().prefix_cache_queries, 0u);
}

}  // namespace
}  // namespace tangram::testing
