#include "unit/server/server_fixture.h"

namespace tangram::testing {
namespace {

// The fake engine answers with the prompt itself: "ab" with 5 tokens is "ababa".
Json Prompt(const std::string& prompt, int max_tokens) {
  return {{"model", "fake"}, {"prompt", prompt}, {"max_tokens", max_tokens}};
}

Json ChatBody(const std::string& content) {
  return {{"messages", Json::array({{{"role", "user"}, {"content", content}}})}};
}

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

TEST_F(ServerTest, Completion) {
  Start();
  const HttpResult result = Post("/v1/completions", Prompt("ab", 5));
  ASSERT_EQ(result.status, 200) << result.body;
  const Json body = Json::parse(result.body);
  EXPECT_TRUE(body["id"].get<std::string>().starts_with("cmpl-"));
  EXPECT_EQ(body["object"], "text_completion");
  EXPECT_EQ(body["model"], "fake");
  EXPECT_EQ(body["choices"].size(), 1u);
  EXPECT_EQ(body["choices"][0]["text"], "ababa");
  EXPECT_EQ(body["choices"][0]["finish_reason"], "length");
  EXPECT_TRUE(body["choices"][0]["stop_reason"].is_null());
  EXPECT_EQ(body["usage"]["prompt_tokens"], 2);
  EXPECT_EQ(body["usage"]["completion_tokens"], 5);
  EXPECT_EQ(body["usage"]["total_tokens"], 7);
  EXPECT_EQ(body["usage"]["prompt_tokens_details"]["cached_tokens"], 3);
}

TEST_F(ServerTest, CompletionStream) {
  Start();
  Json request = Prompt("ab", 5);
  request["stream"] = true;
  request["stream_options"] = {{"include_usage", true}};
  const HttpResult result = Post("/v1/completions", request);
  EXPECT_EQ(result.headers.at("content-type"), "text/event-stream; charset=utf-8");
  std::string text;
  const auto events = Events(result.body);
  ASSERT_EQ(events.size(), 6u);
  for (size_t i = 0; i < 5; ++i) {
    text += events[i]["choices"][0]["text"];
    EXPECT_EQ(events[i]["choices"][0]["finish_reason"].is_null(), i < 4);
    EXPECT_TRUE(events[i]["usage"].is_null());
  }
  EXPECT_EQ(text, "ababa");
  EXPECT_TRUE(events[5]["choices"].empty());
  EXPECT_EQ(events[5]["usage"]["completion_tokens"], 5);
}

TEST_F(ServerTest, ChatStreamHasRoleDeltasFinishAndUsageIfAsked) {
  Start();
  Json request = ChatBody("x");
  request["stream"] = true;
  request["stop_token_ids"] = {kImEnd};
  const auto events = Events(Post("/v1/chat/completions", request).body);
  EXPECT_TRUE(events[0]["id"].get<std::string>().starts_with("chatcmpl-"));
  EXPECT_EQ(events[0]["object"], "chat.completion.chunk");
  EXPECT_EQ(events[0]["choices"][0]["delta"], Json::parse(R"({"role":"assistant","content":""})"));
  std::string text;
  for (size_t i = 1; i < events.size(); ++i) {
    EXPECT_FALSE(events[i].contains("usage"));
    EXPECT_FALSE(events[i]["choices"][0]["delta"].contains("role"));
    text += events[i]["choices"][0]["delta"].value("content", "");
  }
  EXPECT_EQ(text, "user\nx");
  EXPECT_EQ(events.back()["choices"][0]["finish_reason"], "stop");
  EXPECT_EQ(events.back()["choices"][0]["stop_reason"], kImEnd);
}

TEST_F(ServerTest, ContinuousUsage) {
  Start();
  Json request = ChatBody("x");
  request["stream"] = true;
  request["stream_options"] = {{"include_usage", false}, {"continuous_usage_stats", true}};
  request["max_tokens"] = 3;
  request["skip_special_tokens"] = false;
  const auto events = Events(Post("/v1/chat/completions", request).body);
  ASSERT_EQ(events.size(), 4u);
  for (int i = 0; i < 4; ++i) {
    EXPECT_EQ(events[i]["usage"]["completion_tokens"], i);
    EXPECT_GT(events[i]["usage"]["prompt_tokens"], 5);
  }
}

// Streamed or not, the same deltas are folded.
TEST_F(ServerTest, StreamsFoldToThePlainReply) {
  Start();
  std::vector<Json> variants = {{{"stop", "ba"}},
                                {{"stop", "ba"}, {"include_stop_str_in_output", true}},
                                {{"stop", {"never", "abab"}}},
                                {{"logprobs", 2}},
                                {{"stop_token_ids", {'c'}}},
                                {{"stop_token_ids", {'c'}}, {"include_stop_str_in_output", true}},
                                {{"echo", true}},
                                {{"return_token_ids", true}},
                                {{"min_tokens", 4}, {"stop", "ba"}},
                                Json::object()};
  for (Json variant : variants) {
    for (const std::string prompt : {"abac", "\xf0\x9f\x98\x80z", "e\xcc\x81\xe4\xb8\xad"}) {
      Json request = Prompt(prompt, 9);
      request.update(variant);
      const Json plain = Json::parse(Post("/v1/completions", request).body)["choices"][0];
      request["stream"] = true;
      Json folded = {{"text", ""}, {"token_ids", Json::array()}, {"tokens", Json::array()}};
      for (const Json& event : Events(Post("/v1/completions", request).body)) {
        const Json& choice = event["choices"][0];
        folded["text"] = folded["text"].get<std::string>() + choice["text"].get<std::string>();
        folded["finish_reason"] = choice["finish_reason"];
        folded["stop_reason"] = choice["stop_reason"];
        for (const Json& id : choice.value("token_ids", Json::array())) {
          folded["token_ids"].push_back(id);
        }
        if (choice["logprobs"].is_null()) continue;
        for (const Json& token : choice["logprobs"]["tokens"]) folded["tokens"].push_back(token);
      }
      EXPECT_EQ(folded["text"], plain["text"]) << request;
      EXPECT_EQ(folded["finish_reason"], plain["finish_reason"]) << request;
      EXPECT_EQ(folded["stop_reason"], plain["stop_reason"]) << request;
      EXPECT_EQ(folded["token_ids"], plain.value("token_ids", Json::array())) << request;
      if (!plain["logprobs"].is_null()) {
        EXPECT_EQ(folded["tokens"], plain["logprobs"]["tokens"]);
      }
    }
  }
}

TEST_F(ServerTest, StopStringsEndTheEngineRequest) {
  Start({}, {.step_time = std::chrono::milliseconds(1)});
  Json request = Prompt("hello ", 4000);
  request["stop"] = "lo h";
  const Json choice = Json::parse(Post("/v1/completions", request).body)["choices"][0];
  EXPECT_EQ(choice["text"], "hel");
  EXPECT_EQ(choice["finish_reason"], "stop");
  EXPECT_EQ(choice["stop_reason"], "lo h");
  EXPECT_TRUE(EngineIsEmpty());
}

TEST_F(ServerTest, EosEndsWithoutAReason) {
  Start();
  const Json choice =
      Json::parse(Post("/v1/completions", Prompt("hi<|im_end|>", 50)).body)["choices"][0];
  EXPECT_EQ(choice["text"], "hi");
  EXPECT_EQ(choice["finish_reason"], "stop");
  EXPECT_TRUE(choice["stop_reason"].is_null());
  Json request = Prompt("hi<|im_end|>", 7);
  request["ignore_eos"] = true;
  request["skip_special_tokens"] = false;
  EXPECT_EQ(Json::parse(Post("/v1/completions", request).body)["choices"][0]["text"],
            "hi<|im_end|>hi<|im_end|>h");
}

TEST_F(ServerTest, ChatLogprobs) {
  Start();
  Json request = ChatBody("\xc3\xa9");  // é, two byte tokens
  request["logprobs"] = true;
  request["top_logprobs"] = 3;
  request["max_tokens"] = 8;
  const Json choice = Json::parse(Post("/v1/chat/completions", request).body)["choices"][0];
  const Json& content = choice["logprobs"]["content"];
  ASSERT_EQ(content.size(), 8u);
  EXPECT_EQ(content[1]["token"], "u");
  EXPECT_EQ(content[1]["bytes"], Json::array({'u'}));
  EXPECT_FLOAT_EQ(content[1]["logprob"], -0.5f);
  EXPECT_EQ(content[1]["top_logprobs"].size(), 3u);
  EXPECT_EQ(content[6]["token"], "\xef\xbf\xbd");
  EXPECT_EQ(content[6]["bytes"], Json::array({0xc3}));
  request["return_tokens_as_token_ids"] = true;
  EXPECT_EQ(Json::parse(Post("/v1/chat/completions", request)
                            .body)["choices"][0]["logprobs"]["content"][1]["token"],
            "token_id:117");
}

TEST_F(ServerTest, CompletionLogprobs) {
  Start();
  Json request = Prompt("ab", 3);
  request["logprobs"] = 2;
  const Json logprobs =
      Json::parse(Post("/v1/completions", request).body)["choices"][0]["logprobs"];
  EXPECT_EQ(logprobs["tokens"], Json::array({"a", "b", "a"}));
  EXPECT_EQ(logprobs["text_offset"], Json::array({0, 1, 2}));
  EXPECT_EQ(logprobs["top_logprobs"][0].size(), 2u);
  EXPECT_FLOAT_EQ(logprobs["top_logprobs"][0]["b"], -1.5f);
}

TEST_F(ServerTest, SeveralPromptsAreChoicesInOrder) {
  Start();
  Json request = Prompt("", 3);
  for (const bool stream : {false, true}) {
    request["stream"] = stream;
    request["prompt"] = {"ab", "xyz"};
    const HttpResult strings = Post("/v1/completions", request);
    request["prompt"] = Json::parse("[[97,98],[120,121,122]]");
    const HttpResult ids = Post("/v1/completions", request);
    for (const HttpResult& result : {strings, ids}) {
      std::vector<std::string> texts(2);
      if (stream) {
        for (const Json& event : Events(result.body)) {
          const Json& choice = event["choices"][0];
          texts[choice["index"].get<size_t>()] += choice["text"];
        }
      } else {
        const Json body = Json::parse(result.body);
        for (size_t i = 0; i < 2; ++i) texts[i] = body["choices"][i]["text"];
        EXPECT_EQ(body["usage"]["prompt_tokens"], 5);
        EXPECT_EQ(body["usage"]["completion_tokens"], 6);
      }
      EXPECT_EQ(texts, (std::vector<std::string>{"aba", "xyz"}));
    }
  }
}

TEST_F(ServerTest, EchoesWithoutGenerating) {
  Start();
  Json request = Prompt("ab", 0);
  request["echo"] = true;
  const Json body = Json::parse(Post("/v1/completions", request).body);
  EXPECT_EQ(body["choices"][0]["text"], "ab");
  EXPECT_EQ(body["usage"]["completion_tokens"], 0);
  EXPECT_TRUE(engine_->submitted().empty());
}

TEST_F(ServerTest, ContinuesTheFinalMessage) {
  Start();
  Json request = {{"messages", Json::array({{{"role", "user"}, {"content", "q"}},
                                            {{"role", "assistant"}, {"content", "Sure, "}}})},
                  {"continue_final_message", true},
                  {"add_generation_prompt", false},
                  {"echo", true},
                  {"max_tokens", 1}};
  const Json body = Json::parse(Post("/v1/chat/completions", request).body);
  EXPECT_EQ(body["choices"][0]["message"]["role"], "assistant");
  EXPECT_EQ(body["choices"][0]["message"]["content"], "Sure, ");  // then the template's marker
  const std::vector<TokenId> prompt = engine_->submitted()[0].prompt;
  EXPECT_EQ(ByteTokenizer()->Decode(prompt, false),
            "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\nSure, ");
}

TEST_F(ServerTest, PassesParametersToTheEngine) {
  Start();
  Json request = Prompt("abcdefgh", 5);
  request.update(Json::parse(R"({"temperature":0.25,"seed":7,"priority":3,"cache_salt":"x",
      "truncate_prompt_tokens":2,"stop_token_ids":[9],"min_tokens":2,"ignore_eos":true,
      "add_special_tokens":false,"compression_ratio":0.5})"));
  ASSERT_EQ(Post("/v1/completions", request).status, 200);
  const Request sent = engine_->submitted()[0];
  EXPECT_EQ(sent.prompt, (std::vector<TokenId>{'g', 'h'}));
  EXPECT_FLOAT_EQ(sent.sampling.temperature, 0.25f);
  EXPECT_EQ(sent.sampling.seed, 7u);
  EXPECT_EQ(sent.priority, 3);
  EXPECT_NE(sent.cache_salt, 0u);
  EXPECT_FLOAT_EQ(sent.compression_ratio, 0.5f);
  EXPECT_EQ(sent.stop.max_tokens, 5);
  EXPECT_EQ(sent.stop.min_tokens, 2);
  EXPECT_TRUE(sent.stop.ignore_eos);
  ASSERT_EQ(Post("/v1/chat/completions", ChatBody("x<|im_end|>")).status, 200);
  const Request chat = engine_->submitted()[1];
  EXPECT_EQ(chat.stop.max_tokens, 4096 - static_cast<int>(chat.prompt.size()));
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
  EXPECT_EQ(Get("/nowhere").status, 404);
  EXPECT_EQ(Get("/v1/completions").status, 405);
  EXPECT_EQ(Client().Request("DELETE", "/health").status, 405);
  EXPECT_EQ(
      Client().Request("POST", "/v1/completions", "{}", {{"Content-Type", "text/plain"}}).status,
      400);
  EXPECT_EQ(Client().Request("POST", "/v1/completions", "{}").status, 400);
  const HttpResult head = Client().Request("HEAD", "/health");
  EXPECT_EQ(head.status, 200);
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

TEST_F(ServerTest, MetricsUnderTheNamesThatDashboardsUse) {
  Start();
  ASSERT_EQ(Post("/v1/completions", Prompt("ab", 5)).status, 200);
  Json bad = Prompt("ab", 5);
  bad["n"] = 3;
  ASSERT_EQ(Post("/v1/completions", bad).status, 400);
  const std::string text = Get("/metrics").body;
  const std::string labels = "{model_name=\"fake\",engine=\"0\"} ";
  for (const std::string& line :
       {"vllm:prompt_tokens_total" + labels + "2",
        "vllm:generation_tokens_total" + labels + "5",
        "vllm:num_requests_running" + labels + "0",
        "vllm:num_requests_waiting" + labels + "0",
        "vllm:kv_cache_usage_perc" + labels + "0",
        "vllm:gpu_cache_usage_perc" + labels + "0",
        std::string("vllm:time_to_first_token_seconds_count{engine=\"0\",model_name=\"fake\"} 1"),
        std::string("vllm:inter_token_latency_seconds_count{engine=\"0\",model_name=\"fake\"} 4"),
        std::string("vllm:time_per_output_token_seconds_count{"),
        std::string("vllm:request_time_per_output_token_seconds_count{"),
        std::string("vllm:e2e_request_latency_seconds_bucket{"),
        std::string("vllm:request_queue_time_seconds_sum{"),
        std::string("vllm:request_prompt_tokens_bucket{"),
        std::string("vllm:request_params_max_tokens_sum{engine=\"0\",model_name=\"fake\"} 5"),
        std::string("vllm:cache_config_info{"),
        std::string("vllm:num_preemptions_total{"),
        std::string("vllm:prefix_cache_queries_total{"),
        std::string("tangram:requests_rejected_total{reason=\"invalid\"} 1"),
        std::string("tangram:kv_pages{model_name=\"fake\",engine=\"0\",state=\"used\"} 0"),
        "tangram:kv_logical_tokens" + labels + "0",
        "tangram:kv_resident_tokens" + labels + "0",
        std::string("finished_reason=\"length\""),
        std::string("process_resident_memory_bytes "),
        std::string("http_requests_total{"),
        std::string("http_request_duration_seconds_count{")}) {
    EXPECT_NE(text.find(line), std::string::npos) << line << "\n";
  }
  EXPECT_NE(text.find("handler=\"/v1/completions\""), std::string::npos);
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
