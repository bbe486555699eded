#include <gtest/gtest.h>

#include <fstream>
#include <set>

#include "bench/conversations.h"
#include "bench/dataset.h"
#include "bench/serving_report.h"
#include "bench/statistics.h"
#include "text_model.h"

namespace tangram::apps::bench {
namespace {

using nlohmann::json;

std::shared_ptr<const Tokenizer> Gpt2() {
  auto loaded = LoadTokenizer(TANGRAM_SOURCE_DIR "/.cache/llama.cpp-models/ggml-vocab-gpt-2.gguf");
  EXPECT_TRUE(loaded) << "scripts/setup fetches the vocabularies";
  return loaded ? *loaded : nullptr;
}

TEST(Statistics, AreNumpys) {
  const std::vector<double> values = {4, 1, 3, 2};
  EXPECT_DOUBLE_EQ(Mean(values), 2.5);
  EXPECT_NEAR(StandardDeviation(values), 1.118033988749895, 1e-12);
  EXPECT_DOUBLE_EQ(Percentile(values, 50), 2.5);
  EXPECT_DOUBLE_EQ(Percentile(values, 99), 3.97);
  EXPECT_DOUBLE_EQ(Percentile(values, 100), 4);
  EXPECT_DOUBLE_EQ(Percentile({}, 50), 0);
  EXPECT_EQ(PercentText(99), "99");
  EXPECT_EQ(PercentText(99.9), "99.9");
}

// Two answers: 4 tokens in chunks at 0.1, 0.2, 0.3, 0.4 s, and a single token at 0.5 s.
std::vector<RequestRecord> TwoGoodOneBad() {
  client::StreamedAnswer four;
  four.first_chunk_seconds = 0.1;
  four.last_chunk_seconds = 0.4;
  four.chunk_gaps = {0.1, 0.1, 0.1};
  four.chunk_times = {10.1, 10.2, 10.3, 10.4};
  four.num_chunks = four.output_tokens = 4;
  four.prompt_tokens = 6;
  four.cached_tokens = 2;
  client::StreamedAnswer one;
  one.first_chunk_seconds = one.last_chunk_seconds = 0.5;
  one.chunk_times = {12.5};
  one.num_chunks = one.output_tokens = 1;
  return {{four, 0, 10.0}, {one, 3, 12.0}, {MakeError(ErrorKind::kUnavailable, "no"), 9, 10.0}};
}

TEST(ServingReport, HasVllmsKeysAndDefinitions) {
  ReportConfig config;
  config.goodput.ttft = 200;
  const json result = SummarizeServing(TwoGoodOneBad(), 2.0, config);
  EXPECT_EQ(result["completed"], 2);
  EXPECT_EQ(result["failed"], 1);
  EXPECT_EQ(result["total_input_tokens"], 9);
  EXPECT_EQ(result["total_output_tokens"], 5);
  EXPECT_EQ(result["total_cached_tokens"], 2);
  EXPECT_DOUBLE_EQ(result["request_throughput"], 1.0);
  EXPECT_DOUBLE_EQ(result["request_goodput"], 0.5);
  EXPECT_DOUBLE_EQ(result["output_throughput"], 2.5);
  EXPECT_DOUBLE_EQ(result["total_token_throughput"], 7.0);
  EXPECT_DOUBLE_EQ(result["max_output_tokens_per_s"], 4.0);
  EXPECT_EQ(result["max_concurrent_requests"], 1);
  EXPECT_DOUBLE_EQ(result["mean_ttft_ms"], 300.0);
  EXPECT_DOUBLE_EQ(result["mean_tpot_ms"], 100.0);  // of the four-token answer alone
  EXPECT_DOUBLE_EQ(result["median_itl_ms"], 100.0);
  EXPECT_DOUBLE_EQ(result["p99_e2el_ms"], 499.0);
}

TEST(ServingReport, PrintsWhatWasAskedFor) {
  ReportConfig config;
  config.metrics = {"ttft"};
  config.percentiles = {50, 99};
  const std::string text = FormatServing(SummarizeServing(TwoGoodOneBad(), 2.0, config), config);
  EXPECT_NE(text.find("Successful requests:                     2"), std::string::npos);
  EXPECT_NE(text.find("Mean TTFT (ms):                          300.00"), std::string::npos);
  EXPECT_NE(text.find("P99 TTFT (ms):"), std::string::npos);
  EXPECT_EQ(text.find("goodput"), std::string::npos);
  EXPECT_EQ(text.find("TPOT"), std::string::npos);
}

TEST(ServingReport, Goodput) {
  const auto goodput = ParseGoodput({"ttft:500", "e2el:9000"});
  ASSERT_TRUE(goodput);
  EXPECT_EQ(goodput->ttft, 500);
  EXPECT_EQ(goodput->e2el, 9000);
  EXPECT_FALSE(goodput->tpot);
  for (const char* text : {"ttft", "ttft:", "ttft:x", "itl:5", ":5", "ttft:-1"}) {
    EXPECT_FALSE(ParseGoodput({text})) << text;
  }
}

TEST(Dataset, RandomIdsWithoutATokenizer) {
  DatasetConfig config;
  config.num_prompts = 50;
  config.input_len = 100;
  config.range_ratio = 0.5;
  config.prefix_len = 7;
  const auto prompts = MakePrompts(config, nullptr, 300);
  ASSERT_TRUE(prompts);
  std::set<size_t> lengths;
  for (const BenchPrompt& prompt : *prompts) {
    lengths.insert(prompt.tokens.size());
    EXPECT_TRUE(std::equal(prompt.tokens.begin(), prompt.tokens.begin() + 7,
                           prompts->front().tokens.begin()));
    for (const int32_t id : prompt.tokens) ASSERT_TRUE(id >= 0 && id < 300);
  }
  EXPECT_GE(*lengths.begin(), 57u);
  EXPECT_LE(*lengths.rbegin(), 157u);
  EXPECT_GT(lengths.size(), 10u);
  EXPECT_EQ(MakePrompts(config, nullptr, 300)->back().tokens, prompts->back().tokens);
}

TEST(Dataset, RandomTextsHaveTheLengthAskedFor) {
  const auto tokenizer = Gpt2();
  DatasetConfig config;
  config.num_prompts = 5;
  config.input_len = 64;
  const auto prompts = MakePrompts(config, tokenizer.get(), tokenizer->vocab_size());
  ASSERT_TRUE(prompts);
  for (const BenchPrompt& prompt : *prompts) {
    EXPECT_LE(prompt.tokens.size(), 64u);
    EXPECT_GT(prompt.tokens.size(), 32u);
    EXPECT_FALSE(prompt.text.empty());
  }
}

TEST(Dataset, FilesOfBothKinds) {
  const auto tokenizer = Gpt2();
  DatasetConfig config;
  config.path = testing::TempDir() + "dataset";
  config.name = "custom";
  std::ofstream(config.path) << "{\"prompt\": \"one two\"}\n\n{\"prompt\": \"three\"}\n";
  auto prompts = MakePrompts(config, tokenizer.get(), 0);
  ASSERT_TRUE(prompts);
  ASSERT_EQ(prompts->size(), 2u);
  EXPECT_EQ((*prompts)[0].text, "one two");
  EXPECT_EQ((*prompts)[0].output_len, 256);
  std::ofstream(config.path) << "{\"text\": 1}\n";
  EXPECT_FALSE(MakePrompts(config, tokenizer.get(), 0));

  config.name = "sharegpt";
  std::ofstream(config.path)
      << R"([{"conversations": [{"value": "What is a tangram, and who made it?"},)"
      << R"({"value": "A puzzle of seven pieces."}]}, {"conversations": [{"value": "alone"}]},)"
      << R"({"conversations": [{"value": "x"}, {"value": "too short"}]}])";
  prompts = MakePrompts(config, tokenizer.get(), 0);
  ASSERT_TRUE(prompts);
  ASSERT_EQ(prompts->size(), 1u);
  EXPECT_EQ((*prompts)[0].output_len,
            static_cast<int>(tokenizer->Encode("A puzzle of seven pieces.", true)->size()));
}

TEST(Conversations, DistributionsHaveTheirMeans) {
  const auto mean = [](const char* spec) {
    std::mt19937_64 random(1);
    double sum = 0;
    for (int i = 0; i < 4000; ++i) sum += *DrawLength(json::parse(spec), random);
    return sum / 4000;
  };
  EXPECT_EQ(mean("500"), 500);
  EXPECT_EQ(mean(R"({"distribution": "constant", "value": 7})"), 7);
  EXPECT_NEAR(mean(R"({"distribution": "uniform", "min": 10, "max": 20})"), 15, 0.3);
  EXPECT_NEAR(mean(R"({"distribution": "lognormal", "average": 1000})"), 1000, 30);
  EXPECT_NEAR(mean(R"({"distribution": "poisson", "alpha": 50})"), 50, 1);
  // sum k^-1 / sum k^-2 over 1..100
  EXPECT_NEAR(mean(R"({"distribution": "zipf", "alpha": 2, "max": 100})"), 5.187 / 1.635, 0.5);
  std::mt19937_64 random(1);
  EXPECT_FALSE(DrawLength(json::parse(R"({"distribution": "other"})"), random));
  EXPECT_FALSE(DrawLength(json(), random));
}

TEST(Conversations, GeneratedAndFromAList) {
  const auto tokenizer = Gpt2();
  const auto generated = LoadConversations("", 0, *tokenizer);
  ASSERT_TRUE(generated) << generated.error().message;
  ASSERT_EQ(generated->size(), 24u);
  for (const Conversation& conversation : *generated) {
    EXPECT_GE(conversation.turns.size(), 6u);
    EXPECT_LE(conversation.turns.size(), 9u);
    EXPECT_GE(conversation.turns[0].answer_len, 80);
    // The shared prefix comes first in each.
    EXPECT_EQ(conversation.turns[0].question.substr(0, 500),
              generated->front().turns[0].question.substr(0, 500));
    EXPECT_NE(conversation.turns[1].question, "");
  }

  const std::string path = testing::TempDir() + "conversations.json";
  std::ofstream(path) << R"([{"id": "a", "messages": [{"role": "user", "content": "Hi"},)"
                      << R"({"role": "assistant", "content": "Hello there"},)"
                      << R"({"role": "user", "content": "unanswered"}]}])";
  const auto listed = LoadConversations(path, 0, *tokenizer);
  ASSERT_TRUE(listed) << listed.error().message;
  ASSERT_EQ(listed->front().turns.size(), 1u);
  EXPECT_EQ(listed->front().turns[0].answer_len, 2);
  std::ofstream(path) << R"([{"id": "a"}])";
  EXPECT_FALSE(LoadConversations(path, 0, *tokenizer));
  EXPECT_FALSE(LoadConversations("/nonexistent", 0, *tokenizer));
}

}  // namespace
}  // namespace tangram::apps::bench
