#pragma once

#include <cuda_bf16.h>

#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

// What the GPU tests share: random bf16 data, and the yardstick of every comparison.

namespace tangram::ops::cuda {

inline std::vector<__nv_bfloat16> RandomBf16(size_t count, uint64_t seed, float scale = 1.f) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal(0.f, scale);
  std::vector<__nv_bfloat16> values(count);
  for (auto& v : values) v = __float2bfloat16(normal(generator));
  return values;
}

// ||got - expected|| / ||expected||; NaN if anything is NaN.
template <class T>
double RelativeError(const std::vector<T>& got, const std::vector<double>& expected) {
  double difference = 0, norm = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    const double d = static_cast<double>(static_cast<float>(got[i])) - expected[i];
    difference += d * d;
    norm += expected[i] * expected[i];
  }
  return std::sqrt(difference / norm);
}

// The error of the exact result rounded to bf16: no bf16 output can do better.
inline double RoundingError(const std::vector<double>& expected) {
  std::vector<__nv_bfloat16> rounded(expected.size());
  for (size_t i = 0; i < expected.size(); ++i) {
    rounded[i] = __float2bfloat16(static_cast<float>(expected[i]));
  }
  return RelativeError(rounded, expected);
}

}  // namespace tangram::ops::cuda
