#include "ops/cuda/sampling/sampling.h"

#include <gtest/gtest.h>

#include <array>
#include <ostream>
#include <set>

#include "ops/cuda/sampling_case.h"

namespace tangram::ops::cuda {
namespace {

// Values that bf16 can hold: many ties.
std::vector<float> TiedLogits(size_t size, uint32_t seed, float scale) {
  std::vector<float> logits = RandomLogits(size, seed, scale);
  for (float& x : logits) x = std::round(x * 32) / 32;
  return logits;
}

TEST(Sampling, TemperatureZeroTakesTheLowestOfTheLikeliest) {
  for (size_t size : {1u, 3u, 4u, 2047u, 2049u, 5000u, 151936u, 300001u}) {
    auto logits = RandomLogits(size, 1);
    logits[size - 1] = 19;
    EXPECT_EQ(Draw(logits, {RowOf(0)})[0], static_cast<int>(size - 1));
    logits[size / 2] = logits[size / 3] = 19;
    EXPECT_EQ(Draw(logits, {RowOf(0)})[0], static_cast<int>(size / 3));
  }
}

TEST(Sampling, FollowsTheDistribution) {
  const auto logits = RandomLogits(64, 2, 1.5f);
  const auto logprob = LogSoftmax(logits, 0.8);
  const int draws = 20000;
  for (const uint64_t seed : {uint64_t{7}, uint64_t{0}, uint64_t{3} << 40, ~uint64_t{0}}) {
    std::vector<int> seen(64);
    for (int t : Draw(logits, Draws(RowOf(0.8f, seed), draws))) ++seen.at(t);
    double chi = 0;
    for (int t = 0; t < 64; ++t) {
      const double expected = draws * std::exp(logprob[t]);
      chi += (seen[t] - expected) * (seen[t] - expected) / expected;
    }
    EXPECT_LT(chi, 120) << seed;  // 63 degrees of freedom: one run in 50,000 exceeds it
    EXPECT_GT(chi, 25) << seed;   // nor is it too good to be random
  }
}

struct KeptCase {
  int top_k;
  float top_p, min_p;
};
void PrintTo(const KeptCase& c, std::ostream* out) {
  *out << "top-k " << c.top_k << ", top-p " << c.top_p << ", min-p " << c.min_p;
}

class SamplingKept : public testing::TestWithParam<KeptCase> {
 protected:
  void Check(int vocabulary, int draws) {
    const KeptCase& c = GetParam();
    const auto logits = TiedLogits(static_cast<size_t>(vocabulary), 3, 2.5f);
    SamplingRow row = RowOf(1.3f);
    row.top_k = c.top_k, row.top_p = c.top_p, row.min_p = c.min_p;
    const auto logprob = LogSoftmax(logits, 1.3f);
    const KeptRange kept = KeptWithin(logprob, row, 1e-6);
    const auto tokens = Draw(logits, Draws(row, draws));
    const std::set<int> seen(tokens.begin(), tokens.end());
    for (int t : seen) EXPECT_TRUE(kept.most.count(t)) << t;
    double total = 0;
    for (int t : kept.most) total += std::exp(logprob[t]);
    for (int t : kept.fewest) {
      if (std::exp(logprob[t]) / total * draws > 20) {
        EXPECT_TRUE(seen.count(t)) << t;
      }
    }
  }
};
TEST_P(SamplingKept, InManyDraws) { Check(6000, 4000); }
// Little enough for a race detector.
TEST_P(SamplingKept, InFewDraws) { Check(5001, 3); }
// Both few enough to be listed and more, at each level of the histogram.
INSTANTIATE_TEST_SUITE_P(Settings, SamplingKept,
                         testing::Values(KeptCase{1, 1, 0}, KeptCase{5, 1, 0}, KeptCase{40, 1, 0},
                                         KeptCase{0, 0.3f, 0}, KeptCase{0, 0.9f, 0},
                                         KeptCase{0, 0.999f, 0}, KeptCase{50, 0.5f, 0},
                                         KeptCase{0, 1, 0.2f}, KeptCase{20, 0.8f, 0.05f},
                                         KeptCase{0, 0.95f, 0.01f}, KeptCase{2000, 0.9f, 0},
                                         KeptCase{2000, 0.2f, 0}, KeptCase{4999, 1, 0},
                                         KeptCase{0, 1e-6f, 0}));

TEST(Sampling, PenaltiesFollowTheirFormulas) {
  std::vector<float> logits(400, -20.f);
  logits[10] = 8, logits[11] = 7, logits[12] = 6;
  SamplingInput input;
  input.seen = {{390, 5}, {10, 0}, {11, 2}};  // the first one is another row's
  SamplingRow row = RowOf(0);
  row.first_seen = 1, row.num_seen = 2;
  const auto token = [&](float repetition, float presence, float frequency) {
    row.repetition_penalty = repetition;
    row.presence_penalty = presence, row.frequency_penalty = frequency;
    input.rows = {row};
    return Draw(logits, input)[0];
  };
  EXPECT_EQ(token(1.2f, 0, 0), 10);  // 6.67, 5.83, 6
  EXPECT_EQ(token(1.5f, 0, 0), 12);  // 5.33, 4.67, 6
  input.seen[1].times = 1;
  EXPECT_EQ(token(1, 1.5f, 0), 10);     // 6.5, 5.5, 6
  EXPECT_EQ(token(1, 1.5f, 0.6f), 12);  // 5.9, 4.3, 6
}

TEST(Sampling, DrawsOnlyAllowedTokens) {
  const auto logits = RandomLogits(1001, 4);
  SamplingInput input;
  input.allowed.assign(2 * 32, 0);  // none; some
  for (int t : {5, 500, 1000}) input.allowed[32 + t / 32] |= 1u << t % 32;
  input.rows = Draws(RowOf(1), 1000);
  for (SamplingRow& row : input.rows) row.first_allowed = 32;
  const auto tokens = Draw(logits, input);
  EXPECT_EQ(std::set<int>(tokens.begin(), tokens.end()), (std::set<int>{5, 500, 1000}));
  for (float temperature : {0.f, 1.f}) {
    input.rows = {RowOf(temperature)};
    input.rows[0].first_allowed = 0;
    EXPECT_EQ(Draw(logits, input)[0], -1);
  }
}

TEST(Sampling, BiasesAddUpBeforePenalties) {
  SamplingInput input;
  input.biases = {{0, -INFINITY}, {1, 4.0f}, {1, -1.0f}, {5000, 1.0f}, {-1, 1.0f}};
  input.seen = {{1, 0}};
  SamplingRow row = RowOf(0);
  row.num_biases = 5, row.num_seen = 1, row.repetition_penalty = 2;
  input.rows = {row};
  EXPECT_EQ(Draw({9, 1, 1.9f}, input)[0], 1);  // (1 + 3) / 2
  EXPECT_EQ(Draw({9, 1, 2.1f}, input)[0], 2);
}

// Rows of several kinds over logits of which many, or all, are no numbers.
TEST(Sampling, WhatIsNoNumberIsNeverDrawn) {
  const int vocabulary = 3001;
  auto logits = RandomLogits(3 * vocabulary, 8);
  for (int t = 0; t < vocabulary; ++t) {
    if (t % 3 != 0) logits[t] = t % 3 == 1 ? NAN : -INFINITY;
    logits[vocabulary + t] = NAN;
    logits[2 * vocabulary + t] = t == 77 || t == 2000 ? INFINITY : logits[2 * vocabulary + t];
  }
  SamplingInput input;
  for (SamplingSetting setting : SamplingSettings()) {
    for (int r = 0; r < 3; ++r) {
      setting.row.logit_row = r, setting.row.num_logprobs = r == 1 ? 4 : -1;
      AddRow(setting, vocabulary, input);
    }
  }
  SamplingStep step(logits, vocabulary, input, 4);
  step.Run();
  ExpectAsOnTheHost(step, logits, vocabulary);
  for (size_t i = 0; i < input.rows.size(); ++i) {
    const int token = step.tokens()[i], row = input.rows[i].logit_row;
    EXPECT_TRUE(row != 0 || token % 3 == 0) << token;
    EXPECT_TRUE(row != 1 || token == -1) << token;
  }
}

TEST(Sampling, LogprobsAreThoseOfTheLogitsAsTheyCame) {
  for (int vocabulary : {50, 50001, 151936}) {
    const auto logits = RandomLogits(static_cast<size_t>(vocabulary), 5, 3);
    SamplingInput input;
    for (SamplingSetting setting : SamplingSettings()) {
      for (int wanted : {0, 5, 64, SamplingRow::kAll}) {
        setting.row.num_logprobs = wanted;
        if (vocabulary > 100 || (!setting.biased && !setting.masked)) {
          AddRow(setting, vocabulary, input);
        }
      }
    }
    SamplingStep step(logits, vocabulary, input, kMostTop);
    step.Run();
    ExpectAsOnTheHost(step, logits, vocabulary);
  }
}

TEST(Sampling, LikelyTokensThatTieComeInOrder) {
  const int vocabulary = 20000;
  std::vector<float> logits(vocabulary, 1);
  logits[15000] = 2;
  SamplingInput input;
  input.rows = {RowOf(0)};
  input.rows[0].num_logprobs = 20;
  SamplingStep step(logits, vocabulary, input, 30);
  step.Run();
  ExpectAsOnTheHost(step, logits, vocabulary);
  EXPECT_EQ(step.top()[0].token, 15000);
  EXPECT_EQ(step.top()[19].token, 18);
}

// Little enough for a race detector.
TEST(Sampling, SpreadsOverEqualLogits) {
  const auto tokens = Draw(std::vector<float>(64, 0.5f), Draws(RowOf(1), 40));
  const std::set<int> seen(tokens.begin(), tokens.end());
  EXPECT_GE(*seen.begin(), 0);
  EXPECT_LT(*seen.rbegin(), 64);
  EXPECT_GT(seen.size(), 15u);  // 30 on average
}

// From a cluster of eight blocks a row to one block.
TEST(Sampling, ARowsTokenDoesNotDependOnItsCompany) {
  const int vocabulary = 151935;
  const auto logits = RandomLogits(vocabulary, 6);
  SamplingInput input;
  for (SamplingSetting setting : SamplingSettings()) {
    setting.row.num_logprobs = 3;
    AddRow(setting, vocabulary, input);
  }
  const auto run = [&](size_t rows) {
    SamplingInput some = input;
    some.rows.clear();
    for (size_t i = 0; i < rows; ++i) some.rows.push_back(input.rows[i % input.rows.size()]);
    SamplingStep step(logits, vocabulary, some, 3);
    step.Run();
    std::vector<std::array<float, 6>> all;
    for (size_t i = 0; i < rows; ++i) {
      const auto own = step.logprobs()[i];
      const auto top = step.top();
      all.push_back({static_cast<float>(own.token), own.logprob, static_cast<float>(own.rank),
                     top[3 * i].logprob, top[3 * i + 1].logprob, top[3 * i + 2].logprob});
    }
    return all;
  };
  const auto alone = run(input.rows.size());
  for (size_t rows : {1u, 20u, 50u, 100u, 200u, 300u}) {
    const auto together = run(rows);
    for (size_t i = 0; i < rows; ++i) {
      EXPECT_EQ(together[i], alone[i % alone.size()]) << "row " << i << " of " << rows;
    }
  }
}

}  // namespace
}  // namespace tangram::ops::cuda
