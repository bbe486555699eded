#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "ops/sampling.h"

namespace tangram::ops {

// Draws tokens by the rules of SamplingRow, a row at a time: the CPU backends' sampler, and the
// oracle of the CUDA kernel. Its memory is kept from row to row; one thread at a time.
class Sampler {
 public:
  // Draws for `input.rows[row]` from its logits [V] and writes that row of `output`, which has
  // been resized to the input's rows. Samplers of several threads may share an output.
  void Sample(std::span<const float> logits, const SamplingInput& input, size_t row,
              SamplingOutput& output);
  // The log softmax of `logits` at `token`, and at the `count` likeliest tokens.
  void Logprobs(std::span<const float> logits, int32_t token, size_t count, TokenLogprob& logprob,
                std::vector<TokenLogprob>& top);

 private:
  struct Candidate {
    float value;
    int32_t token;
  };

  // The logits with the row's adjustments.
  std::span<const float> Adjust(std::span<const float> logits, const SamplingInput& input,
                                const SamplingRow& row);
  // Of the tokens with values of at least `least`, the `count` with the largest, and what ties
  // with the last of them, into candidates_ in any order. A NaN is never among them.
  void KeepLargest(std::span<const float> values, size_t count, float least);
  // The lowest score that top-p keeps of candidates_.
  float NucleusScore(float best, float top_p);
  int32_t Draw(std::span<const float> logits, int32_t best, const SamplingRow& row);
  void BestLogprobs(std::span<const float> logits, float log_sum, size_t count,
                    std::vector<TokenLogprob>& top);

  std::vector<float> adjusted_, scores_;  // [V]
  std::vector<Candidate> candidates_;
  std::array<uint64_t, 2048> masses_;
};

}  // namespace tangram::ops
