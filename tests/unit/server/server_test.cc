// The endpoints: who may ask, what is refused, and the small ones.
#include "unit/server/server_fixture.h"

namespace tangram::testing {
namespace {

TEST_F(ServerTest, AnswersWhileTheModelLoads) {
  StartListening();
  EXPECT_EQ(Get("/livez").status, 200);
  EXPECT_EQ(Get("/metrics").status, 200);
  EXPECT_EQ(Get("/version").status, 200);
  for (const char* path : {"/health", "/ping", "/v1/models"}) {
    const HttpResult result = Get(path);
    EXPECT_EQ(result.status, 503) << path;
    EXPECT_EQ(Json::parse(result.body)["error"]["message"], "Loading model");
  }
  EXPECT_EQ(Post("/v1/completions", Prompt("a", 1)).status, 503);
  SetReady();
  const HttpResult health = Get("/health");
  EXPECT_EQ(health.status, 200);
  EXPECT_EQ(health.body, "");
  EXPECT_EQ(Get("/ping").status, 200);
  EXPECT_EQ(Post("/v1/completions", Prompt("a", 1)).status, 200);
}

TEST_F(ServerTest, ErrorsNameTheField) {
  Start();
  const auto param = [&](const std::string& path, const Json& body, int status) {
    const HttpResult result = Post(path, body);
    EXPECT_EQ(result.status, status) << result.body;
    const Json error = Json::parse(result.body)["error"];
    EXPECT_EQ(error["code"], status);
    return error["param"].is_null() ? "" : error["param"].get<std::string>();
  };
  Json request = Prompt("a", 1);
  request["model"] = "other";
  EXPECT_EQ(param("/v1/completions", request, 404), "model");
  request["model"] = "alias";
  EXPECT_EQ(Post("/v1/completions", request).status, 200);
  EXPECT_EQ(param("/v1/completions", Prompt(std::string(5000, 'a'), 1), 400), "prompt");
  EXPECT_EQ(param("/v1/completions", Prompt("a", 4096), 400), "max_tokens");
  EXPECT_EQ(param("/v1/chat/completions", ChatBody(std::string(5000, 'a')), 400), "messages");
  Json chat = ChatBody("a");
  chat["min_tokens"] = 5000;
  EXPECT_EQ(param("/v1/chat/completions", chat, 400), "min_tokens");
  chat["min_tokens"] = 0;
  chat["max_completion_tokens"] = 5000;
  EXPECT_EQ(param("/v1/chat/completions", chat, 400), "max_completion_tokens");
  EXPECT_EQ(param("/detokenize", {{"tokens", {1, 300}}}, 400), "tokens");
  EXPECT_EQ(param("/tokenize", {{"prompt", 3}}, 400), "prompt");
  const HttpResult result = Post("/v1/completions", Prompt(std::string(5000, 'a'), 1));
  EXPECT_NE(result.body.find("maximum context length is 4096"), std::string::npos);
}

TEST_F(ServerTest, RequestsThatAreNotForAnEndpoint) {
  Start();
  EXPECT_EQ(Get("/v1/completions").status, 405);
  EXPECT_EQ(Client().Request("DELETE", "/health").status, 405);
  EXPECT_EQ(
      Client().Request("POST", "/v1/completions", "{}", {{"Content-Type", "text/plain"}}).status,
      400);
  EXPECT_EQ(Client().Request("POST", "/v1/completions", "{}").status, 400);
  const HttpResult head = Client().Request("HEAD", "/health");
  EXPECT_EQ(head.status, 200);
}

TEST_F(ServerTest, AnUnknownPathIsToldWhichThereAre) {
  Start({.root_path = "/llm"});
  const auto message = [&](const std::string& path) {
    const HttpResult result = Client().Request("POST", path, "{}");
    EXPECT_EQ(result.status, 404) << path;
    const Json error = Json::parse(result.body)["error"];
    EXPECT_EQ(error["type"], "NotFoundError");
    EXPECT_EQ(error["code"], 404);
    EXPECT_TRUE(error["param"].is_null());
    return error["message"].get<std::string>();
  };
  const std::string nowhere = message("/llm/v1/embeddings");
  EXPECT_TRUE(nowhere.starts_with("There is no `/v1/embeddings`. This server has GET /health, "))
      << nowhere;
  for (const char* there : {"GET /metrics", "GET /v1/models", "POST /tokenize",
                            "POST /v1/chat/completions", "POST /v1/completions"}) {
    EXPECT_NE(nowhere.find(there), std::string::npos) << there;
  }
  for (const auto& [asked, meant] :
       std::map<std::string, std::string>{{"/chat/completions", "/v1/chat/completions"},
                                          {"/completions/", "/v1/completions"},
                                          {"/v1/v1/models", "/v1/models"},
                                          {"/v1/chat/completions/", "/v1/chat/completions"}}) {
    EXPECT_NE(message(asked).find("did you mean `" + meant + "`?"), std::string::npos) << asked;
  }
  EXPECT_EQ(message("/").find("did you mean"), std::string::npos);
  EXPECT_LT(message("/" + std::string(5000, 'a')).size(), 1000u);
}

TEST_F(ServerTest, TokenizeAndDetokenize) {
  Start();
  Json body = Json::parse(Post("/tokenize", {{"prompt", "ab"}, {"return_token_strs", true}}).body);
  EXPECT_EQ(body["tokens"], Json::array({97, 98}));
  EXPECT_EQ(body["count"], 2);
  EXPECT_EQ(body["max_model_len"], 4096);
  EXPECT_EQ(body["token_strs"], Json::array({"a", "b"}));
  body = Json::parse(Post("/tokenize", ChatBody("q")).body);
  EXPECT_EQ(body["tokens"][0], kImStart);
  EXPECT_TRUE(body["token_strs"].is_null());
  const Json text = Json::parse(Post("/detokenize", {{"tokens", body["tokens"]}}).body);
  EXPECT_EQ(text["prompt"], "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n");
}

TEST_F(ServerTest, Models) {
  Start();
  const Json body = Json::parse(Get("/v1/models").body);
  ASSERT_EQ(body["data"].size(), 2u);
  EXPECT_EQ(body["data"][0]["id"], "fake");
  EXPECT_EQ(body["data"][0]["root"], "/models/fake");
  EXPECT_EQ(body["data"][0]["max_model_len"], 4096);
  EXPECT_EQ(Json::parse(Get("/v1/models/alias").body)["id"], "alias");
  EXPECT_EQ(Get("/v1/models/").body, body.dump()) << "none is named";
  EXPECT_EQ(Get("/v1/models/no%2Fne").status, 404);
}

TEST_F(ServerTest, RequestTemplatesNeedTrust) {
  Start({.trust_request_chat_template = true});
  Json request = ChatBody("q");
  request["chat_template"] = "<{{ messages[0].content }}{{ extra }}>";
  request["chat_template_kwargs"] = {{"extra", "!"}};
  request["max_tokens"] = 4;
  const Json body = Json::parse(Post("/v1/chat/completions", request).body);
  EXPECT_EQ(body["choices"][0]["message"]["content"], "<q!>");
  request["chat_template"] = "{% if %}";
  const HttpResult result = Post("/v1/chat/completions", request);
  EXPECT_EQ(result.status, 400);
  EXPECT_EQ(Json::parse(result.body)["error"]["param"], "chat_template");
}

TEST_F(ServerTest, Keys) {
  Start({.api_keys = {"first", "second"}});
  const auto get = [&](const std::string& path, const std::string& authorization) {
    return Client().Request("GET", path, "", {{"Authorization", authorization}}).status;
  };
  for (const char* path : {"/health", "/livez", "/ping", "/version"}) {
    EXPECT_EQ(Get(path).status, 200) << path;
  }
  for (const char* path : {"/v1/models", "/metrics", "/load", "/nowhere"}) {
    EXPECT_EQ(Get(path).status, 401) << path;
  }
  EXPECT_EQ(get("/v1/models", "Bearer second"), 200);
  EXPECT_EQ(get("/v1/models", "bearer first"), 200);
  for (const char* wrong : {"Bearer firs", "Bearer firstt", "Bearer ", "Bearer", "first",
                            "Basic first", "Bearer first second"}) {
    EXPECT_EQ(get("/v1/models", wrong), 401) << wrong;
  }
  EXPECT_EQ(Client().Request("OPTIONS", "/v1/models").status, 204);
  EXPECT_EQ(Post("/tokenize", {{"prompt", "a"}}).status, 401);
}

TEST_F(ServerTest, Cors) {
  Start({.allowed_origins = {"https://a.example"}});
  const auto get = [&](const std::string& origin) {
    return Client().Request("GET", "/health", "", {{"Origin", origin}}).headers;
  };
  EXPECT_EQ(get("https://a.example")["access-control-allow-origin"], "https://a.example");
  EXPECT_FALSE(get("https://b.example").contains("access-control-allow-origin"));
  const HttpResult preflight = Client().Request(
      "OPTIONS", "/v1/completions", "",
      {{"Origin", "https://a.example"}, {"Access-Control-Request-Headers", "authorization"}});
  EXPECT_EQ(preflight.status, 204);
  EXPECT_EQ(preflight.headers.at("access-control-allow-headers"), "authorization");
}

TEST_F(ServerTest, RequestIds) {
  Start();
  const std::string body = Prompt("a", 1).dump();
  const HttpResult given = Client().Request(
      "POST", "/v1/completions", body,
      {{"Content-Type", "application/json; charset=utf-8"}, {"X-Request-Id", "mine"}});
  EXPECT_EQ(given.headers.at("x-request-id"), "mine");
  EXPECT_EQ(Json::parse(given.body)["id"], "cmpl-mine");
  Json request = Prompt("a", 1);
  request["request_id"] = "of-body";
  const HttpResult of_body = Post("/v1/completions", request);
  EXPECT_EQ(of_body.headers.at("x-request-id"), "of-body");
  EXPECT_EQ(Json::parse(of_body.body)["id"], "cmpl-of-body");
  EXPECT_EQ(Client().Post("/v1/completions", body).headers.at("x-request-id").size(), 32u);
}

TEST_F(ServerTest, MetricsUnderTheNamesThatDashboardsUse) {
  Start();
  ASSERT_EQ(Post("/v1/completions", Prompt("ab", 5)).status, 200);
  Json bad = Prompt("ab", 5);
  bad["n"] = 3;
  ASSERT_EQ(Post("/v1/completions", bad).status, 400);
  const std::string text = Get("/metrics").body;
  const std::string labels = "{model_name=\"fake\",engine=\"0\"} ";
  for (const std::string& line : std::vector<std::string>{
           "vllm:prompt_tokens_total" + labels + "2",
           "vllm:generation_tokens_total" + labels + "5",
           "vllm:num_requests_running" + labels + "0",
           "vllm:num_requests_waiting" + labels + "0",
           "vllm:kv_cache_usage_perc" + labels + "0",
           "vllm:gpu_cache_usage_perc" + labels + "0",
           "vllm:time_to_first_token_seconds_count{engine=\"0\",model_name=\"fake\"} 1",
           "vllm:inter_token_latency_seconds_count{engine=\"0\",model_name=\"fake\"} 4",
           "vllm:time_per_output_token_seconds_count{",
           "vllm:request_time_per_output_token_seconds_count{",
           "vllm:e2e_request_latency_seconds_bucket{",
           "vllm:request_queue_time_seconds_sum{",
           "vllm:request_prompt_tokens_bucket{",
           "vllm:request_params_max_tokens_sum{engine=\"0\",model_name=\"fake\"} 5",
           "vllm:cache_config_info{",
           "vllm:num_preemptions_total{",
           "vllm:prefix_cache_queries_total{",
           "vllm:iteration_tokens_total_bucket{model_name=\"fake\",engine=\"0\",le=\"1\"} 4",
           "vllm:iteration_tokens_total_bucket{model_name=\"fake\",engine=\"0\",le=\"+Inf\"} 5",
           "vllm:iteration_tokens_total_count" + labels + "5",
           "vllm:iteration_tokens_total_sum" + labels + "6",
           "vllm:external_prefix_cache_queries_total" + labels + "0",
           "vllm:external_prefix_cache_hits_total" + labels + "0",
           "vllm:mm_cache_queries_total" + labels + "0",
           "vllm:mm_cache_hits_total" + labels + "0",
           "vllm:spec_decode_num_drafts_total" + labels + "0",
           "vllm:spec_decode_num_accepted_tokens_total" + labels + "0",
           "vllm:spec_decode_num_accepted_tokens_per_pos_total{",
           "vllm:lora_requests_info{",
           "engine=\"0\",sleep_state=\"awake\"} 1",
           "engine=\"0\",sleep_state=\"discard_all\"} 0",
           "tangram:requests_rejected_total{reason=\"invalid\"} 1",
           "tangram:kv_pages{model_name=\"fake\",engine=\"0\",state=\"used\"} 0",
           "tangram:kv_logical_tokens" + labels + "0",
           "tangram:kv_resident_tokens" + labels + "0",
           "finished_reason=\"length\"",
           "process_resident_memory_bytes ",
           "http_requests_total{",
           "http_request_duration_seconds_count{"}) {
    EXPECT_NE(text.find(line), std::string::npos) << line << "\n";
  }
  EXPECT_NE(text.find("handler=\"/v1/completions\""), std::string::npos);
}

TEST_F(ServerTest, TurnsAndWhatTheyReuseAreCounted) {
  Start();
  Json chat = ChatBody("a");
  chat["max_tokens"] = 2;
  ASSERT_EQ(Post("/v1/chat/completions", chat).status, 200);
  chat["messages"].push_back({{"role", "assistant"}, {"content", "b"}});
  chat["messages"].push_back({{"role", "user"}, {"content", "c"}});
  for (int turn = 0; turn < 2; ++turn) {
    ASSERT_EQ(Post("/v1/chat/completions", chat).status, 200);
  }
  ASSERT_EQ(Post("/v1/completions", Prompt("ab", 5)).status, 200);  // no turn of anything
  const std::string text = Get("/metrics").body;
  for (const char* line :
       {"tangram:turn_ttft_seconds_count{engine=\"0\",model_name=\"fake\",turn=\"first\"} 1",
        "tangram:turn_ttft_seconds_count{engine=\"0\",model_name=\"fake\",turn=\"later\"} 2",
        "tangram:session_lookup_total{engine=\"0\",model_name=\"fake\",result=\"hit\"} 4",
        "tangram:session_lookup_total{engine=\"0\",model_name=\"fake\",result=\"miss\"} 0",
        "tangram:session_reused_tokens_total{engine=\"0\",model_name=\"fake\"} 12",
        "tangram:sessions{", "tangram:session_evictions_total{"}) {
    EXPECT_NE(text.find(line), std::string::npos) << line << "\n" << text;
  }
}

TEST_F(ServerTest, LoadCountsWithTheFlag) {
  Start({.server_load_tracking = true}, {.step_time = std::chrono::milliseconds(2)});
  HttpClient client(server_->port());
  Json request = Prompt("ab", 4000);
  request["stream"] = true;
  client.Send(PostText("/v1/completions", request.dump()));
  ASSERT_TRUE(client.ReadUntil("data: "));
  EXPECT_EQ(Get("/load").body, "{\"server_load\":1}");
  client.Close();
  EXPECT_TRUE(Eventually([&] { return Get("/load").body == "{\"server_load\":0}"; }));
}

TEST_F(ServerTest, RootPath) {
  Start({.root_path = "/llm"});
  EXPECT_EQ(Get("/llm/health").status, 200);
  EXPECT_EQ(Get("/health").status, 200);
}

}  // namespace
}  // namespace tangram::testing
