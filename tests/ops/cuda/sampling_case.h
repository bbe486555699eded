#pragma once

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>
#include <vector>

#include "ops/cuda/device_array.h"
#include "ops/cuda/numeric.h"
#include "ops/cuda/sampling/sampling.h"

// What the tests of sampling share.

namespace tangram::ops::cuda {

inline SamplingRow Plain(float temperature = 1.f) {
  return {.temperature = temperature,
          .top_p = 1,
          .min_p = 0,
          .top_k = 0,
          .repetition_penalty = 1,
          .presence_penalty = 0,
          .frequency_penalty = 0,
          .slot = 0,
          .seed = 7,
          .step = 0};
}

struct Drawn {
  std::vector<int32_t> tokens, top_tokens;
  std::vector<float> logprobs, top_logprobs;
  std::vector<uint32_t> counts;
};

// Draws for rows that all see `logits` (one row of the vocabulary).
inline Drawn Draw(const std::vector<__nv_bfloat16>& logits, const std::vector<SamplingRow>& rows,
                  const std::vector<uint32_t>& counts = {},
                  const std::vector<uint32_t>& allowed = {}, int num_top = 0) {
  const int vocabulary = int(logits.size()), n = int(rows.size());
  std::vector<__nv_bfloat16> all;
  std::vector<uint32_t> all_allowed;
  for (int i = 0; i < n; ++i) {
    all.insert(all.end(), logits.begin(), logits.end());
    all_allowed.insert(all_allowed.end(), allowed.begin(), allowed.end());
  }
  DeviceArray<__nv_bfloat16> device_logits(all);
  DeviceArray<SamplingRow> device_rows(rows);
  DeviceArray<uint32_t> device_counts(counts), device_allowed(all_allowed);
  DeviceArray<float> scratch(all.size()), logprobs(n), top_logprobs(size_t(n) * num_top);
  DeviceArray<int32_t> tokens(n), top_tokens(size_t(n) * num_top);
  tokens.FillBytes(0xff), logprobs.FillBytes(0xff), scratch.FillBytes(0xff);
  RunSampling({device_logits.data(), device_rows.data(), device_counts.data(),
               device_allowed.data(), scratch.data(), tokens.data(), logprobs.data(),
               top_tokens.data(), top_logprobs.data(), num_top, n, vocabulary},
              nullptr);
  TANGRAM_CUDA_CHECK(cudaDeviceSynchronize());
  return {tokens.Download(), top_tokens.Download(), logprobs.Download(), top_logprobs.Download(),
          device_counts.Download()};
}

inline std::vector<SamplingRow> Steps(SamplingRow row, int n) {
  std::vector<SamplingRow> rows(n, row);
  for (int i = 0; i < n; ++i) rows[i].step = i;
  return rows;
}

inline std::vector<double> LogSoftmax(std::vector<double> p) {
  const double top = *std::max_element(p.begin(), p.end());
  double sum = 0;
  for (double v : p) sum += std::exp(v - top);
  for (double& v : p) v -= top + std::log(sum);
  return p;
}

// Log probabilities at a temperature, in double.
inline std::vector<double> LogSoftmax(const std::vector<__nv_bfloat16>& logits,
                                      double temperature) {
  std::vector<double> p;
  for (auto v : logits) p.push_back(__bfloat162float(v) / temperature);
  return LogSoftmax(p);
}

// The tokens that min-p, then top-k, then top-p keep, with ties.
inline std::set<int> Kept(const std::vector<double>& logprob, int top_k, double top_p,
                          double min_p) {
  std::vector<int> order(logprob.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int a, int b) { return logprob[a] > logprob[b]; });
  double threshold = -1e300;
  if (min_p > 0) threshold = logprob[order[0]] + std::log(min_p);
  if (top_k > 0) threshold = std::max(threshold, logprob[order[top_k - 1]]);
  double total = 0, mass = 0;
  for (int t : order) total += logprob[t] >= threshold ? std::exp(logprob[t]) : 0;
  std::set<int> kept;
  double last = 0;
  for (int t : order) {
    if (logprob[t] < threshold || (mass >= top_p * total && logprob[t] < last)) break;
    kept.insert(t), mass += std::exp(logprob[t]), last = logprob[t];
  }
  return kept;
}

}  // namespace tangram::ops::cuda
