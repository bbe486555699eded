#include "server/openai_request.h"

#include <gtest/gtest.h>

#include <string>

namespace tangram::server {
namespace {

struct BadCase {
  std::string body, param;
};

class ParseTest : public ::testing::Test {
 protected:
  ParseTest() {
    info_.vocab_size = 100;
    info_.max_model_len = 1000;
    info_.priority_policy = true;
  }

  OpenAiLimits limits() const { return {info_, config_}; }
  Result<OpenAiRequest> Chat(const std::string& fields) {
    return ParseChatRequest(R"({"messages":[{"role":"user","content":"hi"}])" + fields + "}",
                            limits());
  }
  Result<OpenAiRequest> Completion(const std::string& fields) {
    return ParseCompletionRequest(R"({"prompt":"hi")" + fields + "}", limits());
  }

  void ExpectBad(const Result<OpenAiRequest>& result, const BadCase& bad) {
    ASSERT_FALSE(result.has_value()) << bad.body;
    EXPECT_EQ(result.error().kind, ErrorKind::kInvalidArgument);
    EXPECT_EQ(result.error().param, bad.param) << bad.body << ": " << result.error().message;
    EXPECT_FALSE(result.error().message.empty());
  }

  EngineInfo info_;
  ServerConfig config_;
};

TEST_F(ParseTest, WrongTypesAndRangesNameTheField) {
  const std::vector<BadCase> both = {
      {R"(,"temperature":-1)", "temperature"},
      {R"(,"temperature":"1")", "temperature"},
      {R"(,"temperature":true)", "temperature"},
      {R"(,"top_p":0)", "top_p"},
      {R"(,"top_p":1.1)", "top_p"},
      {R"(,"top_k":-2)", "top_k"},
      {R"(,"top_k":1.5)", "top_k"},
      {R"(,"top_k":1e30)", "top_k"},
      {R"(,"min_p":2)", "min_p"},
      {R"(,"presence_penalty":-2.5)", "presence_penalty"},
      {R"(,"frequency_penalty":3)", "frequency_penalty"},
      {R"(,"repetition_penalty":0)", "repetition_penalty"},
      {R"(,"seed":"x")", "seed"},
      {R"(,"seed":18446744073709551615)", "seed"},
      {R"(,"seed":1e40)", "seed"},
      {R"(,"stop":7)", "stop"},
      {R"(,"stop":[""])", "stop"},
      {R"(,"stop":["a",3])", "stop"},
      {R"(,"stop_token_ids":["a"])", "stop_token_ids"},
      {R"(,"stop_token_ids":3)", "stop_token_ids"},
      {R"(,"logit_bias":{"x":1})", "logit_bias"},
      {R"(,"logit_bias":{"100":1})", "logit_bias"},
      {R"(,"logit_bias":{"5":"high"})", "logit_bias"},
      {R"(,"logit_bias":[1])", "logit_bias"},
      {R"(,"stream":"yes")", "stream"},
      {R"(,"stream_options":{})", "stream_options"},
      {R"(,"stream":true,"stream_options":5)", "stream_options"},
      {R"(,"stream":true,"stream_options":{"include_usage":1})", "stream_options"},
      {R"(,"min_tokens":-1)", "min_tokens"},
      {R"(,"min_tokens":30,"max_tokens":20)", "min_tokens"},
      {R"(,"ignore_eos":1)", "ignore_eos"},
      {R"(,"allowed_token_ids":[])", "allowed_token_ids"},
      {R"(,"allowed_token_ids":[100])", "allowed_token_ids"},
      {R"(,"truncate_prompt_tokens":0)", "truncate_prompt_tokens"},
      {R"(,"truncate_prompt_tokens":-2)", "truncate_prompt_tokens"},
      {R"(,"cache_salt":"")", "cache_salt"},
      {R"(,"cache_salt":")" + std::string(1025, 's') + "\"", "cache_salt"},
      {R"(,"priority":"high")", "priority"},
      {R"(,"max_tokens":-5)", "max_tokens"},
      {R"(,"max_tokens":2147483648)", "max_tokens"},
      {R"(,"max_tokens":999999999999999999999999)", "max_tokens"},
      {R"(,"model":3)", "model"},
      {R"(,"n":0)", "n"},
      {R"(,"n":2)", "n"},
      {R"(,"best_of":2)", "best_of"},
      {R"(,"bad_words":[""])", "bad_words"},
      {R"(,"bad_words":{"a":1})", "bad_words"},
      {R"(,"prompt_logprobs":1)", "prompt_logprobs"},
      {R"(,"prompt_logprobs":"3")", "prompt_logprobs"},
      {R"(,"tools":[{"type":"function"}])", "tools"},
      {R"(,"tool_choice":"auto")", "tool_choice"},
      {R"(,"response_format":{"type":"json_object"})", "response_format"},
      {R"(,"response_format":{"type":"json_schema"})", "response_format"},
      {R"(,"response_format":"text")", "response_format"},
      {R"(,"structured_outputs":{"json":{}})", "structured_outputs"},
      {R"(,"guided_regex":"a+")", "guided_regex"},
      {R"(,"compression_ratio":1.5)", "compression_ratio"},
      {R"(,"compression_ratio":0)", "compression_ratio"},
      {R"(,"compression_ratio":"half")", "compression_ratio"},
      {R"(,"vllm_xargs":{"compression_ratio":2})", "vllm_xargs"},
      {R"(,"suffix":"end")", "suffix"},
      {R"(,"use_beam_search":true)", "use_beam_search"},
  };
  for (const BadCase& bad : both) {
    ExpectBad(Chat(bad.body), bad);
    ExpectBad(Completion(bad.body), bad);
  }
}

TEST_F(ParseTest, WrongFieldsOfChat) {
  for (const BadCase& bad :
       std::vector<BadCase>{{R"(,"max_tokens":0)", "max_tokens"},
                            {R"(,"max_completion_tokens":0)", "max_completion_tokens"},
                            {R"(,"top_logprobs":2)", "top_logprobs"},
                            {R"(,"logprobs":3)", "logprobs"},
                            {R"(,"logprobs":true,"top_logprobs":21)", "top_logprobs"},
                            {R"(,"logprobs":true,"top_logprobs":-1)", "top_logprobs"},
                            {R"(,"chat_template":"{{ 1 }}")", "chat_template"},
                            {R"(,"chat_template_kwargs":[])", "chat_template_kwargs"},
                            {R"(,"documents":{})", "documents"},
                            {R"(,"continue_final_message":true,"add_generation_prompt":true)",
                             "continue_final_message"}}) {
    ExpectBad(Chat(bad.body), bad);
  }
  for (const std::string messages :
       {"[]", "{}", "null", "\"hi\"", "[3]", "[{}]", R"([{"role":1,"content":"x"}])",
        R"([{"role":"user"}])", R"([{"role":"user","content":4}])",
        R"([{"role":"user","content":[{"type":"image_url","image_url":{"url":"x"}}]}])",
        R"([{"role":"user","content":[{"type":"text"}]}])", R"([{"role":"user","content":[7]}])"}) {
    ExpectBad(ParseChatRequest("{\"messages\":" + messages + "}", limits()),
              {messages, "messages"});
  }
}

TEST_F(ParseTest, WrongPrompts) {
  for (const std::string prompt :
       {"\"\"", "[]", "[[]]", "[\"\"]", "{}", "null", "3", "[1,\"a\"]", "[\"a\",1]", "[[1],\"a\"]",
        "[100]", "[-1]", "[[5,100]]", "[1.5]", "[true]", "[[\"a\"]]", "[null]"}) {
    ExpectBad(ParseCompletionRequest("{\"prompt\":" + prompt + "}", limits()), {prompt, "prompt"});
  }
  ExpectBad(Completion(R"(,"max_tokens":0)"), {"max_tokens 0 without echo", "max_tokens"});
  ExpectBad(Completion(R"(,"logprobs":true)"), {"logprobs bool", "logprobs"});
  ExpectBad(Completion(R"(,"logprobs":21)"), {"logprobs 21", "logprobs"});
  ExpectBad(Completion(R"(,"logprobs":1,"echo":true)"), {"logprobs echo", "logprobs"});
}

TEST_F(ParseTest, BodiesThatAreNoRequests) {
  std::string deep(100'000, '[');
  std::string many = "{\"prompt\":[";
  for (int i = 0; i < 4'100'000; ++i) many += "0,";
  std::string members = "{";
  for (int i = 0; i < 20'000; ++i) members += "\"" + std::to_string(i) + "\":1,";
  for (const std::string& body :
       {std::string(), std::string("{"), std::string("[]"), std::string("null"), std::string("3"),
        std::string("{\"prompt\":\"a\"} x"), std::string("{\"prompt\":\"\xff\"}"),
        std::string("{\"prompt\":\"a\0b\"}", 16), std::string("\0", 1), std::string("{'prompt':1}"),
        std::string("{\"prompt\":NaN}"), std::string("{\"a\":1e999}"), deep, "{\"a\":" + deep,
        many + "0]}", members + "\"z\":1}", std::string("{\"prompt\":\"\\ud800\"}")}) {
    const auto result = ParseCompletionRequest(body, limits());
    ASSERT_FALSE(result.has_value()) << body.substr(0, 40);
    EXPECT_EQ(result.error().kind, ErrorKind::kInvalidArgument);
    EXPECT_LT(result.error().message.size(), 400u);
  }
}

TEST_F(ParseTest, ReadsWhatIsServed) {
  const auto r = Completion(
      R"(,"temperature":0.5,"top_p":0.9,"top_k":-1,"min_p":0.1,"presence_penalty":1,
      "frequency_penalty":-1,"repetition_penalty":1.5,"seed":-7,"stop":"end","stop_token_ids":[4],
      "logit_bias":{"3":500,"4":-1.5},"logprobs":0,"max_tokens":7.0,"min_tokens":2,"ignore_eos":true,
      "allowed_token_ids":[1,2],"stream":true,"stream_options":{"continuous_usage_stats":true},
      "truncate_prompt_tokens":-1,"priority":-3,"cache_salt":"s","return_token_ids":true,
      "skip_special_tokens":false,"include_stop_str_in_output":true,"add_special_tokens":false,
      "request_id":"r","user":"u","n":1,"best_of":1,"response_format":{"type":"text"},"tools":[],
      "compression_ratio":1,"what_is_this":1)");
  ASSERT_TRUE(r.has_value()) << r.error().message;
  EXPECT_FLOAT_EQ(r->sampling.temperature, 0.5f);
  EXPECT_FLOAT_EQ(r->sampling.top_p, 0.9f);
  EXPECT_EQ(r->sampling.top_k, 0);
  EXPECT_EQ(r->sampling.seed, static_cast<uint64_t>(-7));
  EXPECT_EQ(r->stop_strings, std::vector<std::string>{"end"});
  EXPECT_EQ(r->stop.stop_token_ids, std::vector<TokenId>{4});
  ASSERT_EQ(r->sampling.logit_bias.size(), 2u);
  EXPECT_EQ(r->sampling.logit_bias[0], (std::pair<TokenId, float>{3, 100.0f}));
  EXPECT_EQ(r->sampling.num_logprobs, 0);
  EXPECT_EQ(r->max_tokens, 7);
  EXPECT_EQ(r->stop.min_tokens, 2);
  EXPECT_TRUE(r->stop.ignore_eos && r->stream && r->include_usage && r->continuous_usage);
  EXPECT_EQ(r->sampling.allowed_token_ids, (std::vector<TokenId>{1, 2}));
  EXPECT_EQ(r->truncate_prompt_tokens, -1);
  EXPECT_EQ(r->priority, -3);
  EXPECT_TRUE(r->return_token_ids && r->include_stop_string);
  EXPECT_FALSE(r->skip_special_tokens || r->add_special_tokens);
  EXPECT_EQ(r->unknown_fields, std::vector<std::string>{"what_is_this"});
}

TEST_F(ParseTest, DefaultsComeFromTheModel) {
  info_.default_sampling.temperature = 0.6f;
  info_.default_sampling.top_k = 20;
  const auto r = Chat("");
  ASSERT_TRUE(r.has_value());
  EXPECT_FLOAT_EQ(r->sampling.temperature, 0.6f);
  EXPECT_EQ(r->sampling.top_k, 20);
  EXPECT_FALSE(r->max_tokens.has_value());
  EXPECT_FALSE(r->add_special_tokens);
  EXPECT_EQ(Completion("")->max_tokens, 16);
}

TEST_F(ParseTest, CompressionRatio) {
  EXPECT_FLOAT_EQ(Chat("")->compression_ratio, 1.0f);
  info_.compression.ratio = 0.3f;
  EXPECT_FLOAT_EQ(Chat("")->compression_ratio, 0.3f);
  EXPECT_FLOAT_EQ(Chat(R"(,"compression_ratio":1)")->compression_ratio, 1.0f);
  EXPECT_FLOAT_EQ(Chat(R"(,"vllm_xargs":{"compression_ratio":0.5})")->compression_ratio, 0.5f);
  EXPECT_EQ(Chat(R"(,"vllm_xargs":{"foo":1})")->unknown_fields,
            std::vector<std::string>{"vllm_xargs.foo"});
}

TEST_F(ParseTest, NullIsAsIfAbsent) {
  const auto r = Chat(R"(,"temperature":null,"stop":null,"tools":null,"seed":null,"logprobs":null,
      "stream_options":null,"max_tokens":null,"response_format":null,"n":null,"tool_choice":null)");
  ASSERT_TRUE(r.has_value()) << r.error().message;
  EXPECT_FLOAT_EQ(r->sampling.temperature, 1.0f);
  EXPECT_TRUE(r->unknown_fields.empty());
}

TEST_F(ParseTest, SmallTemperaturesAreGreedyOrLifted) {
  EXPECT_TRUE(Chat(R"(,"temperature":0)")->sampling.greedy());
  EXPECT_TRUE(Chat(R"(,"temperature":1e-6)")->sampling.greedy());
  EXPECT_FLOAT_EQ(Chat(R"(,"temperature":0.001)")->sampling.temperature, 0.01f);
}

TEST_F(ParseTest, PromptsOfEveryKind) {
  const auto parse = [&](const std::string& prompt) {
    return ParseCompletionRequest("{\"prompt\":" + prompt + "}", limits())->prompts;
  };
  EXPECT_EQ(parse("\"a\"")[0].text, "a");
  EXPECT_EQ(parse("[\"a\",\"b\"]")[1].text, "b");
  EXPECT_EQ(parse("[1,2]")[0].ids, (std::vector<TokenId>{1, 2}));
  EXPECT_EQ(parse("[[1,2],[3]]")[1].ids, std::vector<TokenId>{3});
  EXPECT_EQ(parse("\"a\\u0000b\"")[0].text, std::string("a\0b", 3));
}

TEST_F(ParseTest, ContentPartsAreJoined) {
  const auto r = ParseChatRequest(
      R"({"messages":[{"role":"user","name":"x","content":[{"type":"text","text":"a"},"b"]},
      {"role":"assistant","content":null,"tool_calls":[]},{"role":"critic","content":"c"}]})",
      limits());
  ASSERT_TRUE(r.has_value()) << r.error().message;
  EXPECT_EQ(r->messages,
            R"([{"role":"user","name":"x","content":"a\nb"},{"role":"assistant","content":"",)"
            R"("tool_calls":[]},{"role":"critic","content":"c"}])");
  EXPECT_EQ(r->last_role, "critic");
}

TEST_F(ParseTest, MaxCompletionTokensWins) {
  const auto r = Chat(R"(,"max_tokens":5,"max_completion_tokens":9)");
  EXPECT_EQ(r->max_tokens, 9);
  EXPECT_EQ(r->max_tokens_param, "max_completion_tokens");
}

TEST_F(ParseTest, WholeVocabularyOnlyIfTheServerAllowsIt) {
  config_.max_logprobs = -1;
  EXPECT_EQ(Chat(R"(,"logprobs":true,"top_logprobs":-1)")->sampling.num_logprobs,
            SamplingParams::kAllLogprobs);
  EXPECT_EQ(Chat(R"(,"logprobs":true,"top_logprobs":50)")->sampling.num_logprobs, 50);
}

}  // namespace
}  // namespace tangram::server
