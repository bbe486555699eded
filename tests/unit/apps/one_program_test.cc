// The server and its clients in one program, as in `tangram`: both have replies and records of
// requests, which are types of their own. Where they are not, AddressSanitizer says so here.
#include <memory>
#include <vector>

#include "bench/serving_report.h"
#include "client/openai_client.h"
#include "server/http_server.h"
#include "server/metrics.h"
#include "unit/server/server_fixture.h"

namespace tangram::testing {
namespace {

using apps::client::OpenAiClient;

static_assert(!std::is_same_v<server::HttpReply, apps::client::HttpReply>);
static_assert(!std::is_same_v<server::RequestRecord, apps::bench::RequestRecord>);

class OneProgramTest : public ServerTest {
 protected:
  OpenAiClient MakeClient() {
    return OpenAiClient({.host = "127.0.0.1", .port = std::to_string(server_->port())}, "");
  }
};

TEST_F(OneProgramTest, RepliesOfServerAndClient) {
  Start();
  OpenAiClient client = MakeClient();
  std::vector<apps::client::HttpReply> replies;
  for (int i = 0; i < 20; ++i) {
    auto reply = client.http().Get("/v1/models");
    ASSERT_TRUE(reply) << reply.error().message;
    replies.push_back(std::move(*reply));
  }
  for (const auto& reply : replies) {
    EXPECT_EQ(reply.status, 200);
    EXPECT_NE(reply.body.find("\"fake\""), std::string::npos) << reply.body;
  }
}

TEST_F(OneProgramTest, RecordsOfServerAndBenchmark) {
  Start();
  OpenAiClient client = MakeClient();
  std::vector<apps::bench::RequestRecord> told;
  std::vector<server::RequestRecord> counted;
  for (int i = 0; i < 20; ++i) {
    told.push_back({.answer = client.Stream("/v1/completions", Prompt("abc", 7)), .prompt_len = 3});
    ASSERT_TRUE(told.back().answer) << told.back().answer.error().message;
    counted.push_back({.prompt_tokens = 3, .generation_tokens = 7, .e2e = 0.5});
  }
  const auto result = apps::bench::SummarizeServing(told, 1, {});
  EXPECT_EQ(result["completed"], 20);
  EXPECT_EQ(result["total_output_tokens"], 140);

  server::Metrics metrics;
  metrics.SetModel("fake", engine_->info());
  for (const server::RequestRecord& record : counted) metrics.OnFinished(record);
  const EngineStats stats = engine_->Stats();
  const std::string text = metrics.Render(&stats);
  EXPECT_NE(text.find("request_generation_tokens_sum{engine=\"0\",model_name=\"fake\"} 140"),
            std::string::npos)
      << text;
}

}  // namespace
}  // namespace tangram::testing
