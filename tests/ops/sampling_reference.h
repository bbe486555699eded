#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <random>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "ops/philox.h"
#include "ops/sampling.h"

// Sampling in double precision, as plainly as its rules are written: what the tests of both
// samplers compare with.

namespace tangram::ops {

inline std::vector<float> RandomLogits(size_t size, uint32_t seed, float scale = 2) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, scale);
  std::vector<float> logits(size);
  for (float& x : logits) x = normal(random);
  return logits;
}

inline SamplingRow RowOf(float temperature, uint64_t seed = 7, uint32_t draw = 0) {
  SamplingRow row;
  row.temperature = temperature, row.seed = seed, row.draw = draw;
  return row;
}

// The logits as adjusted, at the row's temperature; minus infinity for NaN.
inline std::vector<double> ReferenceScores(std::span<const float> logits,
                                           const SamplingInput& input, const SamplingRow& row) {
  const double never = -std::numeric_limits<double>::infinity();
  std::vector<double> scores(logits.begin(), logits.end());
  for (size_t t = 0; t < scores.size() && row.first_allowed >= 0; ++t) {
    const uint32_t word = input.allowed[static_cast<size_t>(row.first_allowed) + t / 32];
    if ((word >> t % 32 & 1) == 0) scores[t] = never;
  }
  for (int i = row.first_bias; i < row.first_bias + row.num_biases; ++i) {
    const TokenBias& bias = input.biases[static_cast<size_t>(i)];
    scores[static_cast<size_t>(bias.token)] += bias.bias;
  }
  for (int i = row.first_seen; i < row.first_seen + row.num_seen; ++i) {
    const SeenToken& seen = input.seen[static_cast<size_t>(i)];
    double& score = scores[static_cast<size_t>(seen.token)];
    const double p = row.repetition_penalty;
    score = score > 0 ? score / p : score * p;
    score -= double{row.frequency_penalty} * seen.times;
    if (seen.times > 0) score -= row.presence_penalty;
  }
  for (double& score : scores) {
    if (std::isnan(score)) score = never;
    if (row.temperature > 0) score /= row.temperature;
  }
  return scores;
}

inline std::vector<double> LogSoftmax(std::vector<double> p) {
  const double top = *std::max_element(p.begin(), p.end());
  double sum = 0;
  for (double v : p) sum += std::exp(v - top);
  for (double& v : p) v -= top + std::log(sum);
  return p;
}

inline std::vector<double> LogSoftmax(std::span<const float> logits, double temperature = 1) {
  std::vector<double> p(logits.begin(), logits.end());
  for (double& v : p) v /= temperature;
  return LogSoftmax(p);
}

// The tokens from the likeliest on, the lower id first on ties.
inline std::vector<int> Ordered(const std::vector<double>& values) {
  std::vector<int> order;
  for (size_t t = 0; t < values.size(); ++t) order.push_back(static_cast<int>(t));
  std::ranges::stable_sort(order,
                           [&](int a, int b) { return values[size_t(a)] > values[size_t(b)]; });
  return order;
}

// The tokens that min-p, then top-k, then top-p keep of these log probabilities, with ties.
inline std::set<int> Kept(const std::vector<double>& logprob, int top_k, double top_p,
                          double min_p) {
  const std::vector<int> order = Ordered(logprob);
  const auto at = [&](int t) { return logprob[static_cast<size_t>(t)]; };
  double threshold = std::numeric_limits<double>::lowest();
  if (min_p > 0) threshold = at(order[0]) + std::log(min_p);
  if (top_k > 0 && static_cast<size_t>(top_k) < order.size()) {
    threshold = std::max(threshold, at(order[static_cast<size_t>(top_k) - 1]));
  }
  double total = 0, mass = 0, last = 0;
  for (int t : order) total += at(t) >= threshold ? std::exp(at(t)) : 0;
  std::set<int> kept;
  for (int t : order) {
    if (at(t) < threshold || (top_p < 1 && mass >= top_p * total && at(t) < last)) break;
    kept.insert(t), mass += std::exp(at(t)), last = at(t);
  }
  return kept;
}

// Tokens that a sampler may keep: where a mass or a probability falls within `margin` of its
// bound, either is right.
struct KeptRange {
  std::set<int> fewest, most;
};
inline KeptRange KeptWithin(const std::vector<double>& logprob, const SamplingRow& row,
                            double margin) {
  const double top_p = row.top_p, min_p = row.min_p;
  return {Kept(logprob, row.top_k, top_p - (top_p < 1 ? margin : 0), min_p * (1 + margin)),
          Kept(logprob, row.top_k, top_p + (top_p < 1 ? margin : 0), min_p * (1 - margin))};
}

// Expects `token` to be what the row draws from these logits, but for rounding in float.
inline void ExpectDrawn(int token, std::span<const float> logits, const SamplingInput& input,
                        const SamplingRow& row) {
  const auto score = LogSoftmax(ReferenceScores(logits, input, row));
  const KeptRange kept = KeptWithin(score, row, 1e-5);
  const auto value = [&](int t) {
    const double s = score[static_cast<size_t>(t)];
    if (row.temperature == 0) return s;
    const Philox4 bits = NoiseBits(static_cast<uint32_t>(t) / 4, row.draw, row.seed);
    const uint32_t four[4] = {bits.x, bits.y, bits.z, bits.w};
    return s - std::log(-std::log(double{UnitInterval(four[t % 4])}));
  };
  const std::string what =
      "seed " + std::to_string(row.seed) + ", draw " + std::to_string(row.draw);
  ASSERT_TRUE(token >= 0 && static_cast<size_t>(token) < logits.size()) << token << ", " << what;
  EXPECT_TRUE(row.temperature == 0 || kept.most.contains(token)) << token << ", " << what;
  double best = std::numeric_limits<double>::lowest();
  for (int t : kept.fewest) best = std::max(best, value(t));
  EXPECT_GE(value(token), best - 2e-5) << token << ", " << what;
}

// --- rows that together use every rule.

struct SamplingSetting {
  std::string name;
  SamplingRow row;
  bool biased = false, masked = false;
};

inline std::vector<SamplingSetting> SamplingSettings() {
  std::vector<SamplingSetting> all;
  const auto add = [&](const char* name, float temperature, bool penalties) -> SamplingSetting& {
    SamplingRow row = RowOf(temperature);
    if (penalties) {
      row.repetition_penalty = 1.3f, row.presence_penalty = 0.4f, row.frequency_penalty = 0.7f;
    }
    return all.emplace_back(SamplingSetting{name, row});
  };
  add("likeliest", 0, false);
  add("temperature", 1, false);
  add("hot", 3, false);
  add("penalties", 1, true);
  add("biases", 1, false).biased = true;
  add("penalties, likeliest, mask", 0, true).masked = true;
  add("top-p", 0.7f, false).row.top_p = 0.9f;
  add("penalties, top-p", 0.7f, true).row.top_p = 0.9f;
  add("penalties, min-p", 1.3f, true).row.min_p = 0.05f;
  add("top-k", 1.1f, false).row.top_k = 17;
  add("penalties, top-k", 1.1f, true).row.top_k = 17;
  add("penalties, mask", 1, true).masked = true;
  auto* one = &add("mask, top-p", 0.8f, false);
  one->masked = true, one->row.top_p = 0.5f;
  one = &add("all", 1.2f, true);
  one->masked = one->biased = true;
  one->row.top_k = 30, one->row.top_p = 0.8f, one->row.min_p = 0.01f;
  one = &add("a bonus", 0.9f, true);
  one->row.repetition_penalty = 0.8f, one->row.presence_penalty = -0.5f, one->row.top_p = 0.95f;
  return all;
}

// Adds `setting`'s row to `input`, with random tokens in its prompt and its output, random biases
// and three quarters of the tokens allowed, as far as the setting uses these.
inline void AddRow(const SamplingSetting& setting, int vocabulary, SamplingInput& input) {
  std::mt19937 random(11);
  SamplingRow row = setting.row;
  row.first_seen = static_cast<int>(input.seen.size());
  row.first_bias = static_cast<int>(input.biases.size());
  const bool penalties =
      row.repetition_penalty != 1 || row.presence_penalty != 0 || row.frequency_penalty != 0;
  for (int t = 0; t < vocabulary && penalties; ++t) {
    if (random() % 2 == 0) input.seen.push_back({t, static_cast<int>(random() % 4)});
  }
  for (int i = 0; i < 100 && setting.biased; ++i) {
    const int t = static_cast<int>(random() % static_cast<unsigned>(vocabulary));
    const float bias = static_cast<float>(random() % 8) * 0.7f - 2;
    input.biases.push_back({t, i % 10 == 0 ? -std::numeric_limits<float>::infinity() : bias});
    input.biases.push_back({t, 0.3f});  // a second time
  }
  if (setting.masked) {
    row.first_allowed = static_cast<int>(input.allowed.size());
    for (int i = 0; i < (vocabulary + 31) / 32; ++i) {
      input.allowed.push_back(static_cast<uint32_t>(random() | random()));
    }
  }
  row.num_seen = static_cast<int>(input.seen.size()) - row.first_seen;
  row.num_biases = static_cast<int>(input.biases.size()) - row.first_bias;
  input.rows.push_back(row);
}

}  // namespace tangram::ops
