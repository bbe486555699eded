// Completions and chat: texts, streams, what ends them, and what they ask of the engine.
#include "unit/server/server_fixture.h"

namespace tangram::testing {
namespace {

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
  request["compression_ratio"] = 0.5;
  const auto events = Events(Post("/v1/chat/completions", request).body);
  ASSERT_EQ(events.size(), 4u);
  for (int i = 0; i < 4; ++i) {
    EXPECT_EQ(events[i]["usage"]["kv"]["ratio"], 0.5) << i;
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
  Start({}, {.priority_policy = true});
  Json request = Prompt("abcdefgh", 5);
  request.update(Json::parse(R"({"temperature":0.25,"seed":7,"priority":3,"cache_salt":"x",
      "truncate_prompt_tokens":2,"stop_token_ids":[9],"min_tokens":2,"ignore_eos":true,
      "add_special_tokens":false,"compression_ratio":0.5,"bad_words":["no"]})"));
  ASSERT_EQ(Post("/v1/completions", request).status, 200);
  const Request sent = engine_->submitted()[0];
  EXPECT_EQ(sent.prompt, (std::vector<TokenId>{'g', 'h'}));
  EXPECT_FLOAT_EQ(sent.sampling.temperature, 0.25f);
  EXPECT_EQ(sent.sampling.seed, 7u);
  EXPECT_EQ(sent.priority, 3);
  EXPECT_EQ(sent.cache_salt, "x");
  EXPECT_FLOAT_EQ(sent.compression_ratio, 0.5f);
  EXPECT_EQ(sent.sampling.bad_words,
            (std::vector<std::vector<TokenId>>{{'n', 'o'}, {' ', 'n', 'o'}}));
  EXPECT_EQ(sent.stop.max_tokens, 5);
  EXPECT_EQ(sent.stop.min_tokens, 2);
  EXPECT_TRUE(sent.stop.ignore_eos);
  ASSERT_EQ(Post("/v1/chat/completions", ChatBody("x<|im_end|>")).status, 200);
  const Request chat = engine_->submitted()[1];
  EXPECT_EQ(chat.stop.max_tokens, 4096 - static_cast<int>(chat.prompt.size()));
}

}  // namespace
}  // namespace tangram::testing
