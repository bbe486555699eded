// tangram eval without a model: tests, statistics, files.

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <random>

#include "eval/bundled_text.h"
#include "eval/conversations_file.h"
#include "eval/interval.h"
#include "eval/puzzles.h"
#include "eval/report.h"
#include "eval/run.h"
#include "eval/tasks.h"
#include "support/byte_tokenizer.h"

namespace tangram::apps::eval {
namespace {

using testing::ByteChatTemplate;
using testing::ByteTokenizer;

const Passages& Novel() {
  static const auto passages =
      Passages::Create(BundledNovel(), BundledDialogues(), *ByteTokenizer());
  return *passages;
}

Result<std::vector<EvalSample>> Samples(const TaskConfig& config) {
  const auto format = ReadChatFormat(ByteChatTemplate().get());
  EXPECT_TRUE(format);
  return MakeSamples(config, Novel(), *format, *ByteTokenizer());
}

std::string Text(const std::vector<TokenId>& tokens) {
  return ByteTokenizer()->Decode(tokens, false);
}

std::vector<EvalStep> Asks(const EvalSample& sample) {
  std::vector<EvalStep> asks;
  for (const EvalStep& step : sample.steps) {
    if (step.kind == EvalStep::Kind::kAsk) asks.push_back(step);
  }
  return asks;
}

TEST(ChatFormat, IsReadOffTheTemplate) {
  const auto format = ReadChatFormat(ByteChatTemplate().get());
  ASSERT_TRUE(format);
  EXPECT_EQ(format->begin, "<|im_start|>user\n");
  EXPECT_EQ(format->to_assistant, "<|im_end|>\n<|im_start|>assistant\n");
  EXPECT_EQ(format->to_user, "<|im_end|>\n<|im_start|>user\n");
  EXPECT_EQ(ReadChatFormat(nullptr)->to_user, "\n\n");
}

TEST(Passages, SentencesEndWhereTheyDo) {
  EXPECT_EQ(
      SplitSentences("Mr. Elton came late. \"Oh!\" said she. It was 5 p.m. then, no more! Good."),
      (std::vector<std::string>{"Mr. Elton came late.", "\"Oh!\" said she.",
                                "It was 5 p.m. then, no more!", "Good."}));
  EXPECT_TRUE(SplitSentences("").empty());
}

TEST(Passages, StartAndLengthAreAsWanted) {
  for (const double start : {0.0, 0.5, 0.999}) {
    const auto pieces = Novel().Document(start, 5000);
    ASSERT_TRUE(pieces);
    int tokens = 0;
    for (const Passages::Piece& piece : *pieces) tokens += piece.tokens;
    EXPECT_GE(tokens, 5000);
    EXPECT_LT(tokens - pieces->back().tokens, 5000);
  }
  EXPECT_TRUE(Novel().Document(0, 5000)->front().text.starts_with("Emma Woodhouse, handsome"));
  EXPECT_FALSE(Novel().Document(0, 100'000'000));
  for (const double start : {0.0, 0.3, 0.999}) {
    EXPECT_TRUE(Novel().Dialogue(start, 3000)->front().text.ends_with("?"));
  }
}

class EachTask : public ::testing::TestWithParam<const char*> {};

TEST_P(EachTask, ContextsHaveTheirLengthAndTheirFacts) {
  TaskConfig config{.tasks = {GetParam()}, .samples = 6, .length = 8192};
  const auto samples = Samples(config);
  ASSERT_TRUE(samples) << samples.error().message;
  ASSERT_EQ(samples->size(), 6u);
  for (const EvalSample& sample : *samples) {
    EXPECT_EQ(sample.steps[0].kind, EvalStep::Kind::kRead);
    EXPECT_EQ(sample.steps[0].tokens.size(), 8192u);
    EXPECT_EQ(sample.steps[1].kind, EvalStep::Kind::kPeek);
    EXPECT_EQ(sample.steps[1].tokens.size(), 256u);
    const std::string context = Text(sample.steps[0].tokens);
    auto random = RandomOf(config.seed, GetParam(), sample.context);
    const Puzzle puzzle = MakePuzzle(GetParam(), random);
    for (const std::string& fact : puzzle.facts) {
      EXPECT_NE(context.find(fact), std::string::npos) << fact;
    }
    ASSERT_EQ(Asks(sample).size(), puzzle.questions.size());
    ASSERT_EQ(sample.expected.size(), puzzle.questions.size());
    // What a question asks for was told before it.
    std::string told = context;
    for (size_t i = 0; i < puzzle.questions.size(); ++i) {
      for (const std::string& answer : sample.expected[i]) {
        EXPECT_NE(told.find(answer), std::string::npos) << answer;
      }
      told += Text(Asks(sample)[i].tokens);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Tasks, EachTask,
                         ::testing::Values("document", "needle", "multikey", "multivalue",
                                           "tracking", "dialogue"));

TEST(Tasks, AContextDependsOnItsNumberAndTheSeedAlone) {
  const auto few = Samples({.tasks = {"needle"}, .samples = 2, .length = 8192});
  const auto many = Samples({.tasks = {"dialogue", "needle"}, .samples = 9, .length = 8192});
  const auto other = Samples({.tasks = {"needle"}, .samples = 2, .length = 8192, .seed = 7});
  const auto last = Samples({.tasks = {"needle"}, .samples = 2, .skip = 1, .length = 8192});
  ASSERT_TRUE(few && many && other && last);
  ASSERT_EQ(last->size(), 1u);
  EXPECT_EQ((*last)[0].context, 1);
  EXPECT_EQ((*last)[0].steps[0].tokens, (*few)[1].steps[0].tokens);
  for (size_t i = 0; i < 2; ++i) {
    for (size_t step = 0; step < (*few)[i].steps.size(); ++step) {
      EXPECT_EQ((*few)[i].steps[step].tokens, (*many)[9 + i].steps[step].tokens);
    }
    EXPECT_NE((*few)[i].steps[0].tokens, (*other)[i].steps[0].tokens);
  }
  EXPECT_NE((*few)[0].steps[1].tokens, (*few)[1].steps[1].tokens);
}

TEST(Tasks, AQuestionInThePromptEndsTheContext) {
  const auto samples = Samples({.tasks = {"needle"}, .samples = 2, .later = false});
  ASSERT_TRUE(samples);
  for (const EvalSample& sample : *samples) {
    ASSERT_EQ(sample.steps.size(), 2u);
    ASSERT_EQ(sample.steps[0].tokens.size(), 2048u);
    const std::string context = Text(sample.steps[0].tokens);
    EXPECT_TRUE(context.ends_with("mentioned in the text?<|im_end|>\n<|im_start|>assistant\n"));
    EXPECT_NE(context.find(sample.expected[0][0]), std::string::npos);
    EXPECT_TRUE(Text(sample.steps[1].tokens).starts_with("The special magic number for "));
  }
}

TEST(Tasks, WhatCannotBeMadeIsRefused) {
  const auto unknown = Samples({.tasks = {"riddle"}});
  ASSERT_FALSE(unknown);
  EXPECT_NE(unknown.error().message.find("'riddle' is not one of document, needle"),
            std::string::npos);
  EXPECT_FALSE(Samples({.tasks = {"multikey"}, .length = 256}));
  EXPECT_FALSE(Samples({.tasks = {"document"}, .length = 10'000'000}));
}

TEST(Interval, IsTheNormalOneForManyValues) {
  std::mt19937_64 random(1);
  std::normal_distribution<double> normal(3, 2);
  std::vector<double> values(400);
  for (double& value : values) value = normal(random);
  const Interval interval = BootstrapMean(values);
  EXPECT_NEAR(interval.high - interval.low, 2 * 1.96 * 2 / std::sqrt(400), 0.06);
  EXPECT_LT(interval.low, interval.mean);
  EXPECT_NEAR(interval.mean, 3, 0.3);
  const std::vector<double> constant = {0.5, 0.5, 0.5};
  EXPECT_EQ(BootstrapMean(constant).low, 0.5);
  EXPECT_EQ(BootstrapMean(constant).high, 0.5);
  EXPECT_EQ(BootstrapMean({}).mean, 0);
  EXPECT_EQ(BootstrapMean(constant).count, 3u);
}

EvalRecord Record(double ratio, int context, double loss, std::vector<double> scores) {
  EvalRecord record;
  record.setting = {.scorer = ratio < 1 ? "gate" : "full", .ratio = ratio, .length = 512};
  record.task = "needle";
  record.context = context;
  record.loss = loss;
  record.num_scored = 10;
  record.scores = std::move(scores);
  return record;
}

TEST(Report, PairsEachContextWithItsFullCache) {
  const std::vector<EvalRecord> records = {
      Record(1, 0, 2.0, {1, 1}),    Record(1, 1, 3.0, {1, 0}),   Record(0.3, 1, 3.5, {0, 0}),
      Record(0.3, 0, 2.25, {1, 0}), Record(0.3, 2, 9.0, {0, 0}),  // whose full cache was not run
  };
  const auto rows = Summarise(records);
  ASSERT_EQ(rows.size(), 2u);
  EXPECT_TRUE(rows[0].setting.full());
  EXPECT_EQ(rows[1].contexts, 3);
  EXPECT_EQ(rows[1].questions, 6);
  EXPECT_DOUBLE_EQ(rows[1].loss_increase.mean, 0.375);
  EXPECT_DOUBLE_EQ(rows[1].score_difference.mean, -0.5);
  EXPECT_NEAR(rows[1].score.mean, 1.0 / 6, 1e-12);
  const std::string tables = FormatTables(rows);
  EXPECT_NE(tables.find("**needle**, 512 tokens; 2 contexts"), std::string::npos) << tables;
  EXPECT_NE(
      tables.find("| 0.3 | gate | - | 1.000, 1.000 | 3 | +0.375 (+0.250 to +0.500) | 0.17 | -0.50"),
      std::string::npos)
      << tables;
  EXPECT_NE(tables.find("mean | contexts | loss increase (full: loss) | score | difference |"),
            std::string::npos)
      << tables;
  EXPECT_EQ(FormatTables(Summarise(std::span(records).first(4))).find("| contexts |"),
            std::string::npos);  // all rows have both
  const std::string plot = DrawPlot(rows);
  EXPECT_TRUE(plot.starts_with("<svg ") && plot.ends_with("</svg>\n"));
  EXPECT_NE(plot.find(">gate</text>"), std::string::npos);
}

TEST(Report, OneContextHasNoInterval) {
  const std::vector<EvalRecord> records = {Record(1, 0, 2.0, {1, 1}), Record(0.3, 0, 2.25, {1, 0})};
  const std::string tables = FormatTables(Summarise(records));
  EXPECT_NE(tables.find("; 1 context, 10 tokens scored"), std::string::npos) << tables;
  EXPECT_NE(tables.find("| 0.3 | gate | - | 1.000, 1.000 | +0.250 | 0.50 | -0.50 |"),
            std::string::npos)
      << tables;
  // Without the full cache there is nothing to compare with.
  const std::string alone = FormatTables(Summarise(std::span(records).last(1)));
  EXPECT_NE(alone.find("| 1.000, 1.000 | - | 0.50 | - |"), std::string::npos) << alone;
}

TEST(Report, AContextOfSeveralFilesCountsOnce) {
  const auto rows = Summarise(
      std::vector{Record(1, 0, 2.0, {1}), Record(1, 1, 4.0, {0}), Record(1, 0, 2.0, {1})});
  ASSERT_EQ(rows.size(), 1u);
  EXPECT_EQ(rows[0].contexts, 2);
  EXPECT_DOUBLE_EQ(rows[0].loss.mean, 3.0);
}

TEST(Report, AnotherProgramsContextsArePairedWithItsOwn) {
  auto other = Record(0.3, 0, 5.0, {0});
  other.setting.source = "kvpress";
  auto full = Record(1, 0, 4.0, {1});
  full.setting.source = "kvpress";
  const auto rows = Summarise(std::vector{Record(1, 0, 2.0, {1}), other, full});
  EXPECT_DOUBLE_EQ(rows.back().loss_increase.mean, 1.0);
  EXPECT_NE(FormatTables(rows).find("| kvpress gate |"), std::string::npos);
}

TEST(Scores, AreSharesOfWhatIsExpectedAndEqual) {
  const std::vector<std::string> expected = {"12345", "67890"};
  EXPECT_EQ(ScoreAnswer(" 12345 and 6789", expected), 0.5);
  EXPECT_EQ(ScoreAnswer("67890, 12345.", expected), 1);
  EvalOutcome full{{}, {1, 2}, {{1, 2, 3}, {4}}}, other{{}, {1, 3}, {{1, 9, 3}, {4, 5}}};
  EXPECT_EQ(AgreementOf(full, full), 1);
  EXPECT_DOUBLE_EQ(AgreementOf(other, full), 3.0 / 5);
  full.answers.clear();
  other.answers.clear();
  EXPECT_DOUBLE_EQ(AgreementOf(other, full), 0.5);
}

class EvalFile : public ::testing::Test {
 protected:
  std::string Write(const std::string& text) {
    std::ofstream(path_) << text;
    return path_;
  }
  void TearDown() override { std::remove(path_.c_str()); }
  const std::string path_ = ::testing::TempDir() + "eval_test.jsonl";
  const TextModel text_{ByteTokenizer(), ByteChatTemplate()};
};

TEST_F(EvalFile, RecordsComeBack) {
  auto record = Record(0.3, 4, 2.5, {1, 0.5});
  record.answers = {"\xff bad bytes", "fine"};
  const auto read = ReadRecords(Write(ToJson(record) + "\n"));
  ASSERT_TRUE(read);
  EXPECT_EQ((*read)[0].setting, record.setting);
  EXPECT_EQ((*read)[0].scores, record.scores);
  const auto bad = ReadRecords(Write(ToJson(record) + "\n{\"task\": 3}\n"));
  ASSERT_FALSE(bad);
  EXPECT_NE(bad.error().message.find(":2: not a record"), std::string::npos);
}

TEST_F(EvalFile, TheAssistantsTurnsAreScored) {
  const auto good = ReadConversations(
      Write(
          "\n{\"messages\": [{\"role\": \"user\", \"content\": \"Hi\"}, {\"role\": \"assistant\", "
          "\"content\": \"Hello\"}, {\"role\": \"user\", \"content\": \"Bye\"}, {\"role\": "
          "\"assistant\", \"content\": \"So soon\"}]}\n"),
      text_, 0, 1000);
  ASSERT_TRUE(good) << good.error().message;
  const auto& steps = good->front().steps;
  ASSERT_EQ(steps.size(), 4u);
  EXPECT_EQ(steps[0].kind, EvalStep::Kind::kRead);
  EXPECT_EQ(Text(steps[0].tokens), "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n");
  EXPECT_EQ(steps[1].kind, EvalStep::Kind::kScore);
  EXPECT_EQ(Text(steps[1].tokens), "Hello<|im_end|>\n");
  EXPECT_EQ(Text(steps[3].tokens), "So soon<|im_end|>\n");
  const auto cut = ReadConversations(path_, text_, 0, 30);
  size_t tokens = 0;
  for (const EvalStep& step : cut->front().steps) tokens += step.tokens.size();
  EXPECT_EQ(tokens, 30u);
}

TEST_F(EvalFile, BadConversationsAreNamedByLine) {
  const std::string good =
      R"({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]})";
  for (const auto& [line, words] : std::vector<std::pair<std::string, std::string>>{
           {"{}", ":2: expected {\"messages\""},
           {"{\"messages\": [{\"role\": \"user\"}]}", ":2: expected {\"messages\""},
           {"not json", ":2: expected"},
           {R"({"messages": [{"role": "user", "content": "a"}]})", ":2: no turn of the assistant"},
       }) {
    const auto read = ReadConversations(Write(good + "\n" + line + "\n"), text_, 0, 1000);
    ASSERT_FALSE(read);
    EXPECT_NE(read.error().message.find(words), std::string::npos) << read.error().message;
  }
  EXPECT_FALSE(ReadConversations(Write("\n"), text_, 0, 1000));
  EXPECT_FALSE(ReadConversations("/nonexistent", text_, 0, 1000));
  EXPECT_EQ(
      ReadConversations(Write(good + "\n" + good + "\n" + good + "\n"), text_, 2, 1000)->size(),
      2u);
}

}  // namespace
}  // namespace tangram::apps::eval
