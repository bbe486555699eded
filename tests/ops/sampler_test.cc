#include "ops/host/sampler.h"

#include <gtest/gtest.h>

#include "ops/sampling_reference.h"

namespace tangram::ops {
namespace {

struct Sampled {
  int token;
  TokenLogprob logprob;
  std::vector<TokenLogprob> top;
};

// Draws for the first row of `input`, the only one.
Sampled SampleRow(const std::vector<float>& logits, const SamplingInput& input) {
  Sampler sampler;
  SamplingOutput output;
  output.Resize(1);
  sampler.Sample(logits, input, 0, output);
  return {output.tokens[0], output.logprobs[0], output.top[0]};
}

Sampled SampleRow(const std::vector<float>& logits, const SamplingRow& row) {
  SamplingInput input;
  input.rows = {row};
  return SampleRow(logits, input);
}

// How often each token comes in `count` draws.
std::map<int, int> Histogram(const std::vector<float>& logits, SamplingRow row, int count) {
  std::map<int, int> histogram;
  for (int i = 0; i < count; ++i) {
    row.draw = static_cast<uint32_t>(i);
    ++histogram[SampleRow(logits, row).token];
  }
  return histogram;
}

TEST(SamplerTest, GreedyTakesTheLargestAndOnTiesTheLowestId) {
  EXPECT_EQ(SampleRow({0.0f, 3.0f, 1.0f}, RowOf(0)).token, 1);
  EXPECT_EQ(SampleRow({0.0f, 3.0f, 3.0f}, RowOf(0)).token, 1);
  EXPECT_EQ(SampleRow({-5.0f, -3.0f, -4.0f}, RowOf(0)).token, 1);
  EXPECT_EQ(SampleRow({-1.0f, -0.0f, 0.0f}, RowOf(0)).token, 1);
  for (size_t size : {15u, 16u, 511u, 512u, 513u, 1500u}) {
    std::vector<float> logits(size, -1);
    logits[size - 1] = 4;
    EXPECT_EQ(SampleRow(logits, RowOf(0)).token, static_cast<int>(size) - 1);
    logits[size / 2] = 4;
    EXPECT_EQ(SampleRow(logits, RowOf(0)).token, static_cast<int>(size / 2));
  }
}

TEST(SamplerTest, NoFiniteLogitGivesNoToken) {
  const float nan = std::nanf(""), inf = INFINITY;
  for (float temperature : {0.0f, 1.0f}) {
    SamplingRow row = RowOf(temperature);
    row.num_logprobs = 2;
    EXPECT_EQ(SampleRow({nan, nan}, row).token, -1);
    EXPECT_EQ(SampleRow({-inf, -inf}, row).token, -1);
    EXPECT_TRUE(SampleRow({-inf, nan}, row).top.empty());
    EXPECT_EQ(SampleRow({}, row).token, -1);
    SamplingInput none;
    none.allowed = {0};
    row.first_allowed = 0;
    none.rows = {row};
    EXPECT_EQ(SampleRow({1.0f, 2.0f}, none).token, -1);
  }
}

TEST(SamplerTest, WhatIsNoNumberIsNeverDrawn) {
  const float nan = std::nanf(""), inf = INFINITY;
  SamplingRow row = RowOf(5);
  for (float top_p : {1.0f, 0.999f}) {
    for (int top_k : {0, 3}) {
      row.top_p = top_p, row.top_k = top_k;
      const auto seen = Histogram({nan, 1, -inf, nan, 1, nan, 0.5f}, row, 200);
      EXPECT_EQ(seen.size(), 3u);
      EXPECT_TRUE(seen.contains(1) && seen.contains(4) && seen.contains(6));
    }
  }
  EXPECT_EQ(SampleRow({nan, -4, -3}, RowOf(0)).token, 2);
  EXPECT_EQ(SampleRow({1, inf, inf}, row).token, 1);
  EXPECT_EQ(SampleRow({1, 3e38f, 2e38f}, RowOf(1e-6f)).token, 1);  // scores beyond float
}

TEST(SamplerTest, DrawsFollowTheSoftmax) {
  const std::vector<float> logits = RandomLogits(12, 1);
  for (float temperature : {0.7f, 1.0f, 1.8f}) {
    const int draws = 20000;
    auto histogram = Histogram(logits, RowOf(temperature), draws);
    const auto logprob = LogSoftmax(logits, temperature);
    double chi2 = 0;
    for (size_t i = 0; i < logits.size(); ++i) {
      const double expected = std::exp(logprob[i]) * draws;
      chi2 += std::pow(histogram[static_cast<int>(i)] - expected, 2) / expected;
    }
    EXPECT_LT(chi2, 31.3) << temperature;  // 11 degrees of freedom, p = 0.001
  }
}

TEST(SamplerTest, TopKTopPAndMinPCutTheTail) {
  const std::vector<float> logits = {std::log(0.5f), std::log(0.05f), std::log(0.25f),
                                     std::log(0.2f)};
  SamplingRow row = RowOf(1);
  row.top_k = 2;
  auto seen = Histogram(logits, row, 2000);
  EXPECT_EQ(seen.size(), 2u);
  EXPECT_TRUE(seen.contains(0) && seen.contains(2));
  EXPECT_NEAR(seen[0] / 2000.0, 0.5 / 0.75, 0.04);

  row = RowOf(1);
  row.top_p = 0.7f;  // 0.5 is not enough, 0.75 is
  EXPECT_EQ(Histogram(logits, row, 2000).size(), 2u);
  row.top_p = 0.76f;
  EXPECT_EQ(Histogram(logits, row, 2000).size(), 3u);
  row.top_p = 0;
  EXPECT_EQ(Histogram(logits, row, 200).size(), 1u);

  row = RowOf(1);
  row.min_p = 0.3f;  // of the best one's 0.5: 0.15
  seen = Histogram(logits, row, 2000);
  EXPECT_EQ(seen.size(), 3u);
  EXPECT_FALSE(seen.contains(1));
}

TEST(SamplerTest, WhatTiesWithTheLastKeptTokenIsKept) {
  std::vector<float> logits(3000, 1);
  logits[7] = 2;
  for (int t = 1000; t < 3000; ++t) logits[static_cast<size_t>(t)] = 0;
  SamplingRow row = RowOf(4);
  row.top_k = 3;
  auto seen = Histogram(logits, row, 3000);
  EXPECT_GT(seen.size(), 800u);
  EXPECT_LT(seen.rbegin()->first, 1000);
  row.top_k = 0, row.top_p = 0.01f;
  EXPECT_EQ(Histogram(logits, row, 3000), seen);
}

TEST(SamplerTest, TheDrawHangsOnSeedAndDrawAlone) {
  const std::vector<float> logits = RandomLogits(1000, 2);
  std::set<int> seen, others;
  for (uint32_t draw = 0; draw < 50; ++draw) {
    const int token = SampleRow(logits, RowOf(1, 5, draw)).token;
    EXPECT_EQ(SampleRow(logits, RowOf(1, 5, draw)).token, token);
    seen.insert(token);
    others.insert(SampleRow(logits, RowOf(1, uint64_t{draw} << 32, 0)).token);
  }
  EXPECT_GT(seen.size(), 15u);
  EXPECT_GT(others.size(), 15u);
}

TEST(SamplerTest, PenaltiesFollowTheirFormulas) {
  // Token 0 stood in the prompt, 1 was generated twice, 2 is new.
  SamplingInput input;
  input.seen = {{0, 0}, {1, 2}};
  const auto token = [&](std::vector<float> logits, float repetition, float presence,
                         float frequency) {
    SamplingRow row = RowOf(0);
    row.num_seen = 2;
    row.repetition_penalty = repetition;
    row.presence_penalty = presence, row.frequency_penalty = frequency;
    input.rows = {row};
    return SampleRow(logits, input).token;
  };
  EXPECT_EQ(token({3.0f, 1.0f, 1.6f}, 2, 0, 0), 2);
  EXPECT_EQ(token({3.3f, 1.0f, 1.6f}, 2, 0, 0), 0);
  EXPECT_EQ(token({-1.0f, -5.0f, -1.9f}, 2, 0, 0), 2);
  EXPECT_EQ(token({1.0f, 1.9f, 0.5f}, 1, 1, 0), 0);  // the prompt does not count
  EXPECT_EQ(token({1.0f, 1.9f, 0.5f}, 1, 0, 0.5f), 0);
  EXPECT_EQ(token({1.0f, 2.1f, 0.5f}, 1, 0, 0.5f), 1);
  input.biases = {{1, 4.0f}, {1, -1.0f}, {1000, 1.0f}};  // before the penalties: (1 + 3) / 2
  SamplingRow row = RowOf(0);
  row.num_seen = 2, row.num_biases = 3, row.repetition_penalty = 2;
  input.rows = {row};
  EXPECT_EQ(SampleRow({0, 1, 1.9f}, input).token, 1);
  EXPECT_EQ(SampleRow({0, 1, 2.1f}, input).token, 2);
}

TEST(SamplerTest, BiasAllowedAndBannedIds) {
  SamplingInput input;
  input.biases = {{2, 100.0f}, {0, -INFINITY}};
  SamplingRow row = RowOf(0);
  row.num_biases = 1;
  input.rows = {row};
  EXPECT_EQ(SampleRow({5.0f, 1.0f, 0.0f}, input).token, 2);
  input.rows[0].first_bias = 1;
  EXPECT_EQ(SampleRow({5.0f, 1.0f, 0.0f}, input).token, 1);
  input.allowed = {~0u, 0b110};
  input.rows = {RowOf(0)};
  input.rows[0].first_allowed = 1;
  EXPECT_EQ(SampleRow({5.0f, 1.0f, 0.0f}, input).token, 1);
}

TEST(SamplerTest, DrawsTheReferencesTokens) {
  for (int vocabulary : {1, 3, 61, 2003}) {
    const auto logits = RandomLogits(static_cast<size_t>(vocabulary), 13, 3);
    for (const SamplingSetting& setting : SamplingSettings()) {
      SCOPED_TRACE(setting.name + ", vocabulary " + std::to_string(vocabulary));
      if (vocabulary < 61 && (setting.biased || setting.masked)) continue;  // all may be banned
      SamplingInput input;
      AddRow(setting, vocabulary, input);
      for (uint64_t seed : {uint64_t{0}, uint64_t{1} << 32, uint64_t{0xdeadbeefcafef00d}}) {
        for (uint32_t draw = 0; draw < 8; ++draw) {
          input.rows[0].seed = seed, input.rows[0].draw = draw;
          ExpectDrawn(SampleRow(logits, input).token, logits, input, input.rows[0]);
        }
      }
    }
  }
}

// A number that rounds to 1 would make its noise infinite, and its token be drawn whatever the
// logits: with a vocabulary of 150,000 in one draw of a hundred.
TEST(SamplerTest, NoiseIsFinite) {
  const size_t token = 141702;
  ASSERT_GE(NoiseBits(token / 4, 1, 7).z, 0xffffff00u);
  std::vector<float> logits(151936, 0.0f);
  logits[token] = -20;
  EXPECT_NE(SampleRow(logits, RowOf(1, 7, 1)).token, static_cast<int>(token));
  logits[token] = -2;
  EXPECT_EQ(SampleRow(logits, RowOf(1, 7, 1)).token, static_cast<int>(token));
}

TEST(SamplerTest, LogprobsAreTheModelsOwn) {
  const std::vector<float> logits = RandomLogits(5000, 3);
  SamplingInput input;
  input.biases = {{17, 100.0f}};  // changes the choice, not the logprobs
  SamplingRow row = RowOf(0);
  row.num_biases = 1;
  const auto logprob = LogSoftmax(logits);
  const std::vector<int> order = Ordered(logprob);
  for (int count : {0, 5, 4999, SamplingRow::kAll}) {
    row.num_logprobs = count;
    input.rows = {row};
    const Sampled sampled = SampleRow(logits, input);
    EXPECT_EQ(sampled.token, 17);
    EXPECT_NEAR(sampled.logprob.logprob, logprob[17], 1e-4);
    const auto better = std::ranges::count_if(logits, [&](float x) { return x > logits[17]; });
    EXPECT_EQ(sampled.logprob.rank, better + 1);
    ASSERT_EQ(sampled.top.size(), std::min(static_cast<size_t>(count), logits.size()));
    for (size_t i = 0; i < sampled.top.size(); ++i) {
      const TokenLogprob& top = sampled.top[i];
      EXPECT_EQ(top.rank, static_cast<int>(i) + 1);
      EXPECT_NEAR(top.logprob, logprob[static_cast<size_t>(order[i])], 1e-4);
      EXPECT_NEAR(top.logprob, logprob[static_cast<size_t>(top.token)], 1e-4);
    }
  }
}

TEST(SamplerTest, LikelyTokensThatTieComeInOrder) {
  std::vector<float> logits(2000, 1);
  logits[1500] = 2;
  SamplingRow row = RowOf(0);
  row.num_logprobs = 3;
  const Sampled sampled = SampleRow(logits, row);
  ASSERT_EQ(sampled.top.size(), 3u);
  EXPECT_EQ(sampled.top[0].token, 1500);
  EXPECT_EQ(sampled.top[1].token, 0);
  EXPECT_EQ(sampled.top[2].token, 1);
}

}  // namespace
}  // namespace tangram::ops
