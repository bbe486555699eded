#include "ops/cuda/sampling/sampling.h"

#include <gtest/gtest.h>

#include "ops/cuda/sampling_case.h"

namespace tangram::ops::cuda {
namespace {

TEST(Sampling, TemperatureZeroTakesTheLowestOfTheLikeliest) {
  auto logits = RandomBf16(5000, 1);
  logits[4321] = logits[77] = logits[78] = __float2bfloat16(9.f);
  EXPECT_EQ(Draw(logits, {Plain(0)}).tokens[0], 77);
}

TEST(Sampling, FollowsTheDistribution) {
  const auto logits = RandomBf16(64, 2, 1.5f);
  const auto logprob = LogSoftmax(logits, 0.8);
  const int draws = 20000;
  for (const uint64_t seed : {uint64_t{7}, uint64_t{0}, uint64_t{3} << 40, ~uint64_t{0}}) {
    SamplingRow row = Plain(0.8f);
    row.seed = seed;
    std::vector<int> seen(64);
    for (int t : Draw(logits, Steps(row, draws)).tokens) ++seen.at(t);
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
    const auto logits = RandomBf16(vocabulary, 3, 2.5f);  // bf16: many ties
    SamplingRow row = Plain(1.3f);
    row.top_k = c.top_k, row.top_p = c.top_p, row.min_p = c.min_p;
    const auto logprob = LogSoftmax(logits, 1.3f);
    // Where the mass falls within rounding of the target, either is right.
    const auto fewest = Kept(logprob, c.top_k, c.top_p - 1e-6, c.min_p * (1 + 1e-6));
    const auto most =
        Kept(logprob, c.top_k, c.top_p + (c.top_p < 1 ? 1e-6 : 0), c.min_p * (1 - 1e-6));
    const auto tokens = Draw(logits, Steps(row, draws)).tokens;
    const std::set<int> seen(tokens.begin(), tokens.end());
    for (int t : seen) EXPECT_TRUE(most.count(t)) << t;
    double total = 0;
    for (int t : most) total += std::exp(logprob[t]);
    for (int t : fewest) {
      if (std::exp(logprob[t]) / total * draws > 20) {
        EXPECT_TRUE(seen.count(t)) << t;
      }
    }
  }
};
TEST_P(SamplingKept, InManyDraws) { Check(6000, 4000); }
// Little enough for a race detector.
TEST_P(SamplingKept, InFewDraws) { Check(5000, 3); }
INSTANTIATE_TEST_SUITE_P(Settings, SamplingKept,
                         testing::Values(KeptCase{1, 1, 0}, KeptCase{5, 1, 0}, KeptCase{40, 1, 0},
                                         KeptCase{0, 0.3f, 0}, KeptCase{0, 0.9f, 0},
                                         KeptCase{50, 0.5f, 0}, KeptCase{0, 1, 0.2f},
                                         KeptCase{20, 0.8f, 0.05f}, KeptCase{4999, 1, 0},
                                         KeptCase{0, 1e-6f, 0}));

TEST(Sampling, PenaltiesFollowTheirFormulasAndTheTokenIsCounted) {
  std::vector<__nv_bfloat16> logits(400, __float2bfloat16(-20.f));
  logits[10] = __float2bfloat16(8.f), logits[11] = __float2bfloat16(7.f);
  logits[12] = __float2bfloat16(6.f);
  std::vector<uint32_t> counts(800, 0);
  counts[400 + 10] = kInPrompt, counts[400 + 11] = 2;
  SamplingRow row = Plain(0);
  row.slot = 1;
  row.repetition_penalty = 1.2f;  // 6.67, 5.83, 6
  EXPECT_EQ(Draw(logits, {row}, counts).tokens[0], 10);
  row.repetition_penalty = 1.5f;  // 5.33, 4.67, 6
  const Drawn drawn = Draw(logits, {row}, counts);
  EXPECT_EQ(drawn.tokens[0], 12);
  EXPECT_EQ(drawn.counts[400 + 12], 1u);
  EXPECT_EQ(drawn.counts[12], 0u);
  row.repetition_penalty = 1;
  counts[400 + 10] = kInPrompt | 1;
  row.presence_penalty = 1.5f;  // 6.5, 5.5, 6
  EXPECT_EQ(Draw(logits, {row}, counts).tokens[0], 10);
  row.frequency_penalty = 0.6f;  // 5.9, 4.3, 6
  EXPECT_EQ(Draw(logits, {row}, counts).tokens[0], 12);
}

TEST(Sampling, CountsPromptAndOutput) {
  DeviceArray<uint32_t> counts(16);
  counts.FillBytes(0);
  DeviceArray<int32_t> tokens(std::vector<int32_t>{3, 4, 3, 5, 5, 3});
  RunCountTokens({tokens.data(), 3, 6, counts.data()}, nullptr);
  TANGRAM_CUDA_CHECK(cudaDeviceSynchronize());
  std::vector<uint32_t> expected(16, 0);
  expected[3] = kInPrompt | 1, expected[4] = kInPrompt, expected[5] = 2;
  EXPECT_EQ(counts.Download(), expected);
}

TEST(Sampling, DrawsOnlyAllowedTokens) {
  const auto logits = RandomBf16(1000, 4);
  std::vector<uint32_t> allowed(32, 0);
  for (int t : {5, 500, 999}) allowed[t / 32] |= 1u << t % 32;
  const auto tokens = Draw(logits, Steps(Plain(), 1000), {}, allowed).tokens;
  EXPECT_EQ(std::set<int>(tokens.begin(), tokens.end()), (std::set<int>{5, 500, 999}));
  EXPECT_EQ(Draw(logits, {Plain()}, {}, std::vector<uint32_t>(32, 0)).tokens[0], 0);
}

TEST(Sampling, LogprobsAreThoseOfTheLogitsAsTheyCame) {
  const auto logits = RandomBf16(50000, 5, 3.f);
  const auto logprob = LogSoftmax(logits, 1.0);
  SamplingRow row = Plain(0.5f);
  row.top_k = 100;
  const Drawn drawn = Draw(logits, Steps(row, 3), {}, {}, 20);
  std::vector<int> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int a, int b) { return logprob[a] > logprob[b]; });
  for (int i = 0; i < 3; ++i) {
    EXPECT_NEAR(drawn.logprobs[i], logprob[drawn.tokens[i]], 1e-4);
    for (int j = 0; j < 20; ++j) {
      EXPECT_EQ(drawn.top_tokens[i * 20 + j], order[j]) << j;
      EXPECT_NEAR(drawn.top_logprobs[i * 20 + j], logprob[order[j]], 1e-4) << j;
    }
  }
}

// Little enough for a race detector.
TEST(Sampling, SpreadsOverEqualLogits) {
  const auto tokens =
      Draw(std::vector<__nv_bfloat16>(64, __float2bfloat16(0.5f)), Steps(Plain(), 40)).tokens;
  const std::set<int> seen(tokens.begin(), tokens.end());
  EXPECT_GE(*seen.begin(), 0);
  EXPECT_LT(*seen.rbegin(), 64);
  EXPECT_GT(seen.size(), 15u);  // 30 on average
}

TEST(Sampling, ARowsTokenDoesNotDependOnItsCompany) {
  const auto logits = RandomBf16(151936, 6, 2.f);
  SamplingRow row = Plain(0.9f);
  row.top_p = 0.95f;
  const auto together = Draw(logits, Steps(row, 40)).tokens;
  const auto again = Draw(logits, Steps(row, 40)).tokens;
  EXPECT_EQ(together, again);
  for (int step : {0, 17, 39}) {
    row.step = step;
    EXPECT_EQ(Draw(logits, {row}).tokens[0], together[step]);
  }
  EXPECT_GT(std::set<int>(together.begin(), together.end()).size(), 20u);
}

}  // namespace
}  // namespace tangram::ops::cuda
