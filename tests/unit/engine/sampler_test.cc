#include "engine/sampler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <random>

namespace tangram {
namespace {

std::vector<float> RandomLogits(size_t size, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, 2);
  std::vector<float> logits(size);
  for (float& x : logits) x = normal(random);
  return logits;
}

SampledToken SampleOnce(std::vector<float> logits, const SamplingParams& params, uint64_t seed = 7,
                        int position = 0, std::span<const TokenId> prompt = {},
                        std::span<const TokenId> generated = {},
                        std::span<const TokenId> banned = {}) {
  TokenCounts counts(params, prompt);
  for (TokenId id : generated) counts.Add(id);
  Sampler sampler;
  return sampler.Sample({logits, params, counts, banned, seed, position});
}

SamplingParams Greedy() {
  SamplingParams params;
  params.temperature = 0;
  return params;
}

// How often each token comes in `count` draws.
std::map<TokenId, int> Histogram(const std::vector<float>& logits, const SamplingParams& params,
                                 int count) {
  std::map<TokenId, int> histogram;
  for (int i = 0; i < count; ++i) ++histogram[SampleOnce(logits, params, 42, i).token];
  return histogram;
}

// softmax(logits / temperature) in double.
std::vector<double> Softmax(const std::vector<float>& logits, double temperature) {
  std::vector<double> p;
  double sum = 0;
  for (float x : logits) sum += p.emplace_back(std::exp(x / temperature));
  for (double& x : p) x /= sum;
  return p;
}

TEST(SamplerTest, GreedyTakesTheLargestAndOnTiesTheLowestId) {
  EXPECT_EQ(SampleOnce({0.0f, 3.0f, 1.0f}, Greedy()).token, 1);
  EXPECT_EQ(SampleOnce({0.0f, 3.0f, 3.0f}, Greedy()).token, 1);
  EXPECT_EQ(SampleOnce({-5.0f, -3.0f, -4.0f}, Greedy()).token, 1);
}

TEST(SamplerTest, NoFiniteLogitGivesNoToken) {
  const float nan = std::nanf(""), inf = INFINITY;
  EXPECT_EQ(SampleOnce({nan, nan}, Greedy()).token, -1);
  EXPECT_EQ(SampleOnce({-inf, -inf}, SamplingParams{}).token, -1);
}

TEST(SamplerTest, DrawsFollowTheSoftmax) {
  const std::vector<float> logits = RandomLogits(12, 1);
  for (float temperature : {0.7f, 1.0f, 1.8f}) {
    SamplingParams params;
    params.temperature = temperature;
    const int draws = 20000;
    auto histogram = Histogram(logits, params, draws);
    const auto p = Softmax(logits, temperature);
    double chi2 = 0;
    for (size_t i = 0; i < p.size(); ++i) {
      const double expected = p[i] * draws;
      chi2 += std::pow(histogram[static_cast<TokenId>(i)] - expected, 2) / expected;
    }
    EXPECT_LT(chi2, 31.3) << temperature;  // 11 degrees of freedom, p = 0.001
  }
}

TEST(SamplerTest, TopKTopPAndMinPCutTheTail) {
  const std::vector<float> logits = {std::log(0.5f), std::log(0.05f), std::log(0.25f),
                                     std::log(0.2f)};
  SamplingParams params;
  params.top_k = 2;
  auto seen = Histogram(logits, params, 2000);
  EXPECT_EQ(seen.size(), 2u);
  EXPECT_TRUE(seen.contains(0) && seen.contains(2));
  EXPECT_NEAR(seen[0] / 2000.0, 0.5 / 0.75, 0.04);

  params = {};
  params.top_p = 0.7f;  // 0.5 is not enough, 0.75 is
  seen = Histogram(logits, params, 2000);
  EXPECT_EQ(seen.size(), 2u);
  params.top_p = 0.76f;
  EXPECT_EQ(Histogram(logits, params, 2000).size(), 3u);

  params = {};
  params.min_p = 0.3f;  // of the best one's 0.5: 0.15
  seen = Histogram(logits, params, 2000);
  EXPECT_EQ(seen.size(), 3u);
  EXPECT_FALSE(seen.contains(1));
}

TEST(SamplerTest, TheDrawHangsOnSeedAndPositionAlone) {
  const std::vector<float> logits = RandomLogits(1000, 2);
  const SamplingParams params;
  std::map<TokenId, int> seen;
  for (int position = 0; position < 50; ++position) {
    const TokenId token = SampleOnce(logits, params, 5, position).token;
    EXPECT_EQ(SampleOnce(logits, params, 5, position).token, token);
    ++seen[token];
  }
  EXPECT_GT(seen.size(), 15u);
  EXPECT_NE(UniformAt(1, 0), UniformAt(2, 0));
  EXPECT_NE(UniformAt(1, 0), UniformAt(1, 1));
}

TEST(SamplerTest, PenaltiesFollowTheirFormulas) {
  // Token 0 stood in the prompt, 1 was generated twice, 2 is new.
  const std::vector<TokenId> prompt = {0}, generated = {1, 1};
  SamplingParams params = Greedy();
  params.repetition_penalty = 2.0f;
  EXPECT_EQ(SampleOnce({3.0f, 1.0f, 1.6f}, params, 0, 0, prompt, generated).token, 2);
  EXPECT_EQ(SampleOnce({3.3f, 1.0f, 1.6f}, params, 0, 0, prompt, generated).token, 0);
  EXPECT_EQ(SampleOnce({-1.0f, -5.0f, -1.9f}, params, 0, 0, prompt, generated).token, 2);

  params = Greedy();
  params.presence_penalty = 1.0f;  // the prompt does not count
  EXPECT_EQ(SampleOnce({1.0f, 1.9f, 0.5f}, params, 0, 0, prompt, generated).token, 0);
  params.presence_penalty = 0;
  params.frequency_penalty = 0.5f;
  EXPECT_EQ(SampleOnce({1.0f, 1.9f, 0.5f}, params, 0, 0, prompt, generated).token, 0);
  EXPECT_EQ(SampleOnce({1.0f, 2.1f, 0.5f}, params, 0, 0, prompt, generated).token, 1);
}

TEST(SamplerTest, BiasAllowedAndBannedIds) {
  SamplingParams params = Greedy();
  params.logit_bias = {{2, 100.0f}};
  EXPECT_EQ(SampleOnce({5.0f, 1.0f, 0.0f}, params).token, 2);
  params = Greedy();
  params.allowed_token_ids = {1, 2};
  EXPECT_EQ(SampleOnce({5.0f, 1.0f, 0.0f}, params).token, 1);
  const std::vector<TokenId> banned = {0};
  EXPECT_EQ(SampleOnce({5.0f, 1.0f, 0.0f}, Greedy(), 0, 0, {}, {}, banned).token, 1);
}

TEST(SamplerTest, LogprobsAreTheModelsOwn) {
  const std::vector<float> logits = RandomLogits(500, 3);
  SamplingParams params = Greedy();
  params.num_logprobs = 5;
  params.logit_bias = {{17, 100.0f}};  // changes the choice, not the logprobs
  const SampledToken sampled = SampleOnce(logits, params);
  const auto p = Softmax(logits, 1.0);
  EXPECT_EQ(sampled.token, 17);
  EXPECT_NEAR(sampled.logprob.logprob, std::log(p[17]), 1e-4);
  const auto better = std::ranges::count_if(p, [&](double x) { return x > p[17]; });
  EXPECT_EQ(sampled.logprob.rank, better + 1);
  ASSERT_EQ(sampled.top_logprobs.size(), 5u);
  for (size_t i = 0; i < 5; ++i) {
    const TokenLogprob& top = sampled.top_logprobs[i];
    EXPECT_EQ(top.rank, static_cast<int>(i) + 1);
    EXPECT_NEAR(top.logprob, std::log(p[static_cast<size_t>(top.token)]), 1e-4);
    EXPECT_EQ(
        std::ranges::count_if(p, [&](double x) { return x > p[static_cast<size_t>(top.token)]; }),
        static_cast<int>(i));
  }
}

}  // namespace
}  // namespace tangram
