#pragma once

#include <vector>

#include "ops/cuda/device_array.h"
#include "ops/cuda/sampling/sampling.h"
#include "ops/host/sampler.h"
#include "ops/sampling_reference.h"

// What the tests of sampling share.

namespace tangram::ops::cuda {

// A step in device memory, and what comes of it.
class SamplingStep {
 public:
  static constexpr float kBehind = 1e30f;  // what would be drawn if the padding were looked at

  // `logits`: rows of V. A slot for each row of the input, the last row's first.
  SamplingStep(const std::vector<float>& logits, int vocabulary, SamplingInput input,
               int num_top = 0)
      : input_(std::move(input)), num_top_(num_top), vocabulary_(vocabulary) {
    const size_t width = static_cast<size_t>(vocabulary), rows = logits.size() / width;
    stride_ = (width + 3) / 4 * 4 + 4;
    std::vector<float> padded(rows * stride_, kBehind);
    for (size_t r = 0; r < rows; ++r) {
      std::copy_n(logits.begin() + ptrdiff_t(r * width), width,
                  padded.begin() + ptrdiff_t(r * stride_));
    }
    const size_t n = input_.rows.size();
    for (size_t i = 0; i < n; ++i) input_.rows[i].slot = static_cast<int>(n - 1 - i);
    logits_ = DeviceArray<float>(padded);
    seen_ = DeviceArray<SeenToken>(input_.seen);
    biases_ = DeviceArray<TokenBias>(input_.biases);
    allowed_ = DeviceArray<uint32_t>(input_.allowed);
    rows_ = DeviceArray<SamplingRow>(input_.rows);
    scratch_ = DeviceArray<float>(n * stride_);
    tokens_ = DeviceArray<int32_t>(n), drawn_ = DeviceArray<int32_t>(n);
    ranks_ = DeviceArray<int32_t>(n), logprobs_ = DeviceArray<float>(n);
    top_tokens_ = DeviceArray<int32_t>(n * static_cast<size_t>(num_top));
    top_logprobs_ = DeviceArray<float>(n * static_cast<size_t>(num_top));
    scratch_.FillBytes(0xff), tokens_.FillBytes(0xff), drawn_.FillBytes(0xff);
    ranks_.FillBytes(0xff), logprobs_.FillBytes(0xff);
    top_tokens_.FillBytes(0xff), top_logprobs_.FillBytes(0xff);
  }

  void Run(cudaStream_t stream = nullptr) const {
    RunSampling({logits_.data(), static_cast<int64_t>(stride_), rows_.data(), seen_.data(),
                 biases_.data(), allowed_.data(), scratch_.data(), tokens_.data(), drawn_.data(),
                 logprobs_.data(), ranks_.data(), top_tokens_.data(), top_logprobs_.data(),
                 num_top_, static_cast<int>(input_.rows.size()), vocabulary_},
                stream);
  }
  // For the next Run.
  void SetDraws(uint32_t draw) {
    for (SamplingRow& row : input_.rows) row.draw = draw;
    rows_.Upload(input_.rows);
  }

  const SamplingInput& input() const { return input_; }
  std::vector<int32_t> tokens() const { return tokens_.Download(); }
  // Where later steps find the tokens, put back into the order of the rows.
  std::vector<int32_t> drawn() const {
    std::vector<int32_t> drawn = drawn_.Download();
    std::ranges::reverse(drawn);
    return drawn;
  }
  // The token's own, row by row; what the row does not want is a NaN.
  std::vector<TokenLogprob> logprobs() const {
    const auto tokens = tokens_.Download(), ranks = ranks_.Download();
    const auto logprobs = logprobs_.Download();
    std::vector<TokenLogprob> all;
    for (size_t i = 0; i < tokens.size(); ++i) all.push_back({tokens[i], logprobs[i], ranks[i]});
    return all;
  }
  // [rows, num_top]
  std::vector<TokenLogprob> top() const {
    const auto tokens = top_tokens_.Download();
    const auto logprobs = top_logprobs_.Download();
    std::vector<TokenLogprob> all;
    for (size_t i = 0; i < tokens.size(); ++i) {
      all.push_back({tokens[i], logprobs[i], static_cast<int>(i) % num_top_ + 1});
    }
    return all;
  }

 private:
  SamplingInput input_;
  int num_top_, vocabulary_;
  size_t stride_ = 0;
  DeviceArray<float> logits_, scratch_, logprobs_, top_logprobs_;
  DeviceArray<SamplingRow> rows_;
  DeviceArray<SeenToken> seen_;
  DeviceArray<TokenBias> biases_;
  DeviceArray<uint32_t> allowed_;
  DeviceArray<int32_t> tokens_, drawn_, ranks_, top_tokens_;
};

// Tokens for rows that all see `logits` (one row of the vocabulary).
inline std::vector<int32_t> Draw(const std::vector<float>& logits, SamplingInput input) {
  SamplingStep step(logits, static_cast<int>(logits.size()), std::move(input));
  step.Run();
  TANGRAM_CUDA_CHECK(cudaDeviceSynchronize());
  return step.tokens();
}

inline std::vector<int32_t> Draw(const std::vector<float>& logits,
                                 const std::vector<SamplingRow>& rows) {
  SamplingInput input;
  input.rows = rows;
  return Draw(logits, input);
}

inline std::vector<SamplingRow> Draws(const SamplingRow& row, int n) {
  std::vector<SamplingRow> rows(static_cast<size_t>(n), row);
  for (int i = 0; i < n; ++i) rows[static_cast<size_t>(i)].draw = static_cast<uint32_t>(i);
  return rows;
}

// Expects what the portable sampler says of these logits, rows of V; where the device drew
// something else, that it is as good but for rounding.
inline void ExpectAsOnTheHost(const SamplingStep& step, const std::vector<float>& logits,
                              int vocabulary) {
  const SamplingInput& input = step.input();
  const auto tokens = step.tokens(), drawn = step.drawn();
  const auto logprobs = step.logprobs(), top = step.top();
  const size_t width = static_cast<size_t>(vocabulary), num_top = top.size() / tokens.size();
  Sampler sampler;
  SamplingOutput expected;
  expected.Resize(tokens.size());
  for (size_t i = 0; i < tokens.size(); ++i) {
    SCOPED_TRACE("row " + std::to_string(i));
    const SamplingRow& row = input.rows[i];
    const auto own = std::span(logits).subspan(static_cast<size_t>(row.logit_row) * width, width);
    sampler.Sample(own, input, i, expected);
    EXPECT_EQ(drawn[i], std::max(tokens[i], 0));
    if (tokens[i] != expected.tokens[i]) {
      EXPECT_NE(expected.tokens[i], -1);
      ExpectDrawn(tokens[i], own, input, row);
      continue;
    }
    if (row.num_logprobs < 0) {
      EXPECT_TRUE(std::isnan(logprobs[i].logprob));
      continue;
    }
    EXPECT_NEAR(logprobs[i].logprob, expected.logprobs[i].logprob, 1e-5);
    EXPECT_EQ(logprobs[i].rank, expected.logprobs[i].rank);
    for (size_t j = 0; j < std::min(num_top, static_cast<size_t>(row.num_logprobs)); ++j) {
      const TokenLogprob& got = top[i * num_top + j];
      if (j >= expected.top[i].size()) {
        EXPECT_EQ(got.token, -1) << j;
        continue;
      }
      EXPECT_EQ(got.token, expected.top[i][j].token) << j;
      EXPECT_NEAR(got.logprob, expected.top[i][j].logprob, 1e-5) << j;
    }
  }
}

}  // namespace tangram::ops::cuda
