#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "bench/cuda/decode_case.h"

// What the tests over pages of a DecodeCase share.

namespace tangram {

using bench::DecodeCase;
using bench::DecodeLoad;
using bench::DecodeShape;
using ops::cuda::DeviceArray;
using ops::cuda::kPageTokens;

// Of pair i of d/2: 10000^(-2i/d).
inline std::vector<float> RotationFrequencies(int head_dim) {
  std::vector<float> inv_freq;
  for (int i = 0; i < head_dim / 2; ++i) inv_freq.push_back(std::pow(1e4f, -2.0f * i / head_dim));
  return inv_freq;
}

// Where the score of token `index` of a row lies beside the pool; the row's `pages` are virtual.
inline int64_t ScoreIndex(const std::vector<int64_t>& pages, int index) {
  return pages[index / kPageTokens] * kPageTokens + index % kPageTokens;
}

}  // namespace tangram
