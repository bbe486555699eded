#include <gtest/gtest.h>

#include "ops/cuda/graph.h"
#include "ops/cuda/sampling_case.h"

// Draws token by token beside the portable sampler, which sees the same noise: all that decides
// together, adjustments, temperature, min-p, top-k and top-p.

namespace tangram::ops::cuda {
namespace {

// Rows of all settings, with several seeds and draws, over a few rows of logits.
SamplingInput AllSettings(int vocabulary, int num_logits) {
  SamplingInput input;
  for (const SamplingSetting& setting : SamplingSettings()) {
    if (vocabulary < 100 && (setting.biased || setting.masked)) continue;  // all may be banned
    AddRow(setting, vocabulary, input);
    const SamplingRow row = input.rows.back();
    input.rows.pop_back();
    for (const uint64_t seed : {uint64_t{0}, uint64_t{1} << 32, uint64_t{0xdeadbeefcafef00d}}) {
      for (uint32_t draw = 0; draw < 6; ++draw) {
        SamplingRow& one = input.rows.emplace_back(row);
        one.seed = seed, one.draw = draw;
        one.logit_row = static_cast<int>(input.rows.size()) % num_logits;
      }
    }
  }
  return input;
}

TEST(Sampling, DrawsTheHostsTokens) {
  for (int vocabulary : {1, 2, 5, 61, 2003, 16384}) {
    SCOPED_TRACE(vocabulary);
    const auto logits = RandomLogits(3 * static_cast<size_t>(vocabulary), 13, 3);
    SamplingStep step(logits, vocabulary, AllSettings(vocabulary, 3));
    step.Run();
    ExpectAsOnTheHost(step, logits, vocabulary);
  }
}

TEST(Sampling, DrawsTheHostsTokensOfALargeVocabulary) {
  for (int vocabulary : {128256, 151933}) {
    SCOPED_TRACE(vocabulary);
    const auto logits = RandomLogits(2 * static_cast<size_t>(vocabulary), 14);
    SamplingInput input = AllSettings(vocabulary, 2);
    for (size_t few : {input.rows.size(), size_t{60}, size_t{12}}) {
      input.rows.resize(few);
      SamplingStep step(logits, vocabulary, input);
      step.Run();
      ExpectAsOnTheHost(step, logits, vocabulary);
    }
  }
}

// A number that rounds to 1 would make its noise infinite, and its token be drawn whatever the
// logits: with a vocabulary of 150,000 in one draw of a hundred.
TEST(Sampling, NoiseIsFinite) {
  const int token = 141702;
  ASSERT_GE(NoiseBits(token / 4, 1, 7).z, 0xffffff00u);
  std::vector<float> logits(151936, 0.f);
  logits[token] = -20;
  EXPECT_NE(Draw(logits, {RowOf(1, 7, 1)})[0], token);
  logits[token] = -2;
  EXPECT_EQ(Draw(logits, {RowOf(1, 7, 1)})[0], token);
}

TEST(Sampling, DrawsTheSameFromAGraph) {
  const int vocabulary = 3000;
  const auto logits = RandomLogits(vocabulary, 14);
  SamplingInput input;
  for (const SamplingSetting& setting : SamplingSettings()) AddRow(setting, vocabulary, input);
  SamplingStep step(logits, vocabulary, input);
  Graph graph([&](cudaStream_t stream) { step.Run(stream); });
  for (uint32_t draw = 0; draw < 10; ++draw) {
    step.SetDraws(draw);
    step.Run();
    TANGRAM_CUDA_CHECK(cudaDeviceSynchronize());
    const auto expected = step.tokens();
    graph.Replay();
    EXPECT_EQ(step.tokens(), expected);
  }
}

}  // namespace
}  // namespace tangram::ops::cuda
