#include "engine/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace tangram {
namespace {

constexpr float kImpossible = -std::numeric_limits<float>::infinity();

TokenId ArgMax(std::span<const float> logits) {
  TokenId best = -1;
  float value = kImpossible;
  for (size_t i = 0; i < logits.size(); ++i) {
    if (logits[i] > value) {
      value = logits[i];
      best = static_cast<TokenId>(i);
    }
  }
  return best;
}

// log(sum(exp(logits))), summed in double so that the result does not hang on the vocabulary's
// order.
float LogSumExp(std::span<const float> logits, float maximum) {
  double sum = 0;
  for (float x : logits) sum += std::exp(x - maximum);
  return maximum + static_cast<float>(std::log(sum));
}

std::vector<TokenLogprob> BestLogprobs(std::span<const float> logits, size_t count, float log_sum) {
  std::vector<TokenLogprob> all(logits.size());
  for (size_t i = 0; i < all.size(); ++i)
    all[i] = {static_cast<TokenId>(i), logits[i] - log_sum, 0};
  count = std::min(count, all.size());
  std::partial_sort(all.begin(), all.begin() + static_cast<ptrdiff_t>(count), all.end(),
                    [](const TokenLogprob& a, const TokenLogprob& b) {
                      return a.logprob != b.logprob ? a.logprob > b.logprob : a.token < b.token;
                    });
  all.resize(count);
  for (size_t i = 0; i < count; ++i) all[i].rank = static_cast<int>(i) + 1;
  return all;
}

void FillSampledLogprob(std::span<const float> raw, float log_sum, SampledToken& sampled) {
  const float logit = raw[static_cast<size_t>(sampled.token)];
  const auto better = std::ranges::count_if(raw, [logit](float x) { return x > logit; });
  sampled.logprob = {sampled.token, logit - log_sum, static_cast<int>(better) + 1};
}

void ApplyBias(const SampleInput& in) {
  const auto size = static_cast<TokenId>(in.logits.size());
  if (!in.params.allowed_token_ids.empty()) {
    std::vector<std::pair<TokenId, float>> kept;
    for (TokenId id : in.params.allowed_token_ids) {
      if (id >= 0 && id < size) kept.emplace_back(id, in.logits[static_cast<size_t>(id)]);
    }
    std::ranges::fill(in.logits, kImpossible);
    for (const auto& [id, logit] : kept) in.logits[static_cast<size_t>(id)] = logit;
  }
  for (const auto& [id, bias] : in.params.logit_bias) {
    if (id >= 0 && id < size) in.logits[static_cast<size_t>(id)] += bias;
  }
  for (TokenId id : in.banned) {
    if (id >= 0 && id < size) in.logits[static_cast<size_t>(id)] = kImpossible;
  }
}

// Repetition as in CTRL (arXiv 1909.05858), presence and frequency as in OpenAI's API.
void ApplyPenalties(const SampleInput& in) {
  const SamplingParams& p = in.params;
  for (const auto& [id, count] : in.counts.counts()) {
    float& logit = in.logits[static_cast<size_t>(id)];
    logit = logit > 0 ? logit / p.repetition_penalty : logit * p.repetition_penalty;
    if (count.generated > 0) {
      logit -= p.presence_penalty + p.frequency_penalty * static_cast<float>(count.generated);
    }
  }
}

}  // namespace

TokenCounts::TokenCounts(const SamplingParams& params, std::span<const TokenId> prompt)
    : active_(params.presence_penalty != 0 || params.frequency_penalty != 0 ||
              params.repetition_penalty != 1) {
  if (!active_) return;
  for (TokenId id : prompt) counts_[id].in_prompt = true;
}

void TokenCounts::Add(TokenId generated) {
  if (active_) ++counts_[generated].generated;
}

double UniformAt(uint64_t seed, uint64_t position) {
  uint64_t z = seed + 0x9e3779b97f4a7c15ULL * (position + 1);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
  z ^= z >> 31;
  return static_cast<double>(z >> 11) * 0x1.0p-53;
}

SampledToken Sampler::Sample(const SampleInput& in) {
  SampledToken sampled;
  std::vector<float> raw;
  if (in.params.num_logprobs >= 0) raw.assign(in.logits.begin(), in.logits.end());
  ApplyBias(in);
  ApplyPenalties(in);
  sampled.token = in.params.greedy() ? ArgMax(in.logits) : Draw(in);
  if (sampled.token >= 0 && !raw.empty()) {
    const float log_sum = LogSumExp(raw, *std::ranges::max_element(raw));
    FillSampledLogprob(raw, log_sum, sampled);
    const auto count = static_cast<size_t>(in.params.num_logprobs);
    if (count > 0) sampled.top_logprobs = BestLogprobs(raw, count, log_sum);
  }
  return sampled;
}

TokenId Sampler::Draw(const SampleInput& in) {
  const TokenId best = ArgMax(in.logits);
  if (best < 0) return -1;
  const SamplingParams& p = in.params;
  const float maximum = in.logits[static_cast<size_t>(best)];
  const float inverse = 1.0f / p.temperature;
  // A weight is at most 1, the best token's: min-p is a threshold on it. What rounds to zero cannot
  // be drawn.
  const float least = std::max(p.min_p, std::numeric_limits<float>::min());
  candidates_.clear();
  for (size_t i = 0; i < in.logits.size(); ++i) {
    const float weight = std::exp((in.logits[i] - maximum) * inverse);
    if (weight >= least) candidates_.push_back({weight, static_cast<TokenId>(i)});
  }
  // Ties keep the lower id, as a stable sort of the vocabulary would.
  const auto before = [](const Candidate& a, const Candidate& b) {
    return a.weight != b.weight ? a.weight > b.weight : a.token < b.token;
  };
  if (p.top_k > 0 && static_cast<size_t>(p.top_k) < candidates_.size()) {
    std::ranges::nth_element(candidates_, candidates_.begin() + p.top_k, before);
    candidates_.resize(static_cast<size_t>(p.top_k));
  }
  double total = 0;
  for (const Candidate& c : candidates_) total += c.weight;
  if (p.top_p < 1.0f) {
    // A heap gives the best first; the nucleus is usually a small part of the vocabulary.
    const auto after = [&](const Candidate& a, const Candidate& b) { return before(b, a); };
    std::ranges::make_heap(candidates_, after);
    auto end = candidates_.end();
    double nucleus = 0;
    const double wanted = total * p.top_p;
    while (end != candidates_.begin() && nucleus < wanted) {
      std::ranges::pop_heap(candidates_.begin(), end, after);
      nucleus += (--end)->weight;
    }
    candidates_.erase(candidates_.begin(), end);
    total = nucleus;
  }
  double left = UniformAt(in.seed, static_cast<uint64_t>(in.position)) * total;
  for (const Candidate& c : candidates_) {
    left -= c.weight;
    if (left < 0) return c.token;
  }
  return candidates_.back().token;
}

}  // namespace tangram
