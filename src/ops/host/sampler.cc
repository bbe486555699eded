#include "ops/host/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "ops/philox.h"

namespace tangram::ops {
namespace {

constexpr float kImpossible = -std::numeric_limits<float>::infinity();

struct Best {
  int32_t token;  // -1: every logit is NaN or minus infinity
  float value;
};

// The largest logit, the lowest token on ties. One pass, a chunk at a time, since only a maximum
// without a place is what the compiler makes vector code of.
Best ArgMax(std::span<const float> logits) {
  constexpr size_t kLanes = 16, kChunk = 512;
  Best best{-1, kImpossible};
  size_t place = 0;
  for (size_t first = 0; first < logits.size(); first += kChunk) {
    const std::span<const float> chunk =
        logits.subspan(first, std::min(kChunk, logits.size() - first));
    std::array<float, kLanes> lanes;
    lanes.fill(kImpossible);
    size_t i = 0;
    for (; i + kLanes <= chunk.size(); i += kLanes) {
      for (size_t j = 0; j < kLanes; ++j)
        lanes[j] = chunk[i + j] > lanes[j] ? chunk[i + j] : lanes[j];
    }
    for (; i < chunk.size(); ++i) lanes[0] = chunk[i] > lanes[0] ? chunk[i] : lanes[0];
    const float largest = *std::ranges::max_element(lanes);
    if (largest > best.value) best.value = largest, place = first;
  }
  if (best.value == kImpossible) return best;
  while (logits[place] != best.value) ++place;
  best.token = static_cast<int32_t>(place);
  return best;
}

// log(sum(exp(logits))), summed in double so that the result does not hang on the vocabulary's
// order.
float LogSumExp(std::span<const float> logits, float maximum) {
  double sum = 0;
  for (float x : logits) sum += std::exp(x - maximum);
  return maximum + static_cast<float>(std::log(sum));
}

TokenLogprob LogprobOf(std::span<const float> logits, float log_sum, int32_t token) {
  const float logit = logits[static_cast<size_t>(token)];
  const auto better = std::ranges::count_if(logits, [logit](float x) { return x > logit; });
  return {token, logit - log_sum, static_cast<int32_t>(better) + 1};
}

void KeepAllowed(std::span<const uint32_t> allowed, std::span<float> logits) {
  for (size_t word = 0; word < allowed.size(); ++word) {
    if (allowed[word] == ~0u) continue;
    const size_t end = std::min(logits.size(), 32 * word + 32);
    for (size_t token = 32 * word; token < end; ++token) {
      if ((allowed[word] >> token % 32 & 1) == 0) logits[token] = kImpossible;
    }
  }
}

// Repetition as in CTRL (arXiv 1909.05858), presence and frequency as in OpenAI's API.
float Penalize(float logit, const SamplingRow& row, int32_t times) {
  logit = logit > 0 ? logit / row.repetition_penalty : logit * row.repetition_penalty;
  if (times > 0) {
    logit -= row.presence_penalty + row.frequency_penalty * static_cast<float>(times);
  }
  return logit;
}

float Gumbel(uint32_t bits) { return -std::log(-std::log(UnitInterval(bits))); }

// Where the noise of bits > kMostBits[n] << 9 | 511 may first be larger than n.
const std::array<uint32_t, 17> kMostBits = [] {
  std::array<uint32_t, 17> bits{};
  for (size_t n = 0; n < bits.size(); ++n) {
    // A thousandth, for the rounding of Gumbel and of this.
    const double unit = std::exp(-std::exp(0.001 - static_cast<double>(n)));
    bits[n] = static_cast<uint32_t>(unit * 0x1p23) - 1;
  }
  return bits;
}();

// Who has the largest score + noise? Noise takes two logarithms a token, which nearly all of a
// vocabulary can do without: first the bound of any noise, then that of a token's own random bits
// say that it cannot win.
class Race {
 public:
  Race(const SamplingRow& row, Best first) : row_(row) { Offer(first.value, first.token); }

  bool MayWin(float score) const { return score + kMaxGumbel >= value_; }
  void Offer(float score, int32_t token) {
    const Philox4 bits = Bits(static_cast<uint32_t>(token) / 4);
    const std::array<uint32_t, 4> four = {bits.x, bits.y, bits.z, bits.w};
    Offer(score, token, four[static_cast<size_t>(token) % 4]);
  }
  // Up to four tokens, from `first` on, a multiple of 4; those with scores of at least `least`.
  void OfferFour(std::span<const float> scores, int32_t first, float least) {
    float highest = kImpossible;
    for (float score : scores) highest = score > highest ? score : highest;
    if (highest < least || !MayWin(highest)) return;
    const Philox4 bits = Bits(static_cast<uint32_t>(first) / 4);
    const std::array<uint32_t, 4> four = {bits.x, bits.y, bits.z, bits.w};
    if (Loses(highest, std::ranges::max(four))) return;
    for (size_t i = 0; i < scores.size(); ++i) {
      if (scores[i] >= least) Offer(scores[i], first + static_cast<int32_t>(i), four[i]);
    }
  }
  int32_t winner() const { return token_; }

 private:
  Philox4 Bits(uint32_t four) const { return NoiseBits(four, row_.draw, row_.seed); }
  // Whether no score up to `highest` can win with bits up to these. It is computed as Offer does,
  // whose rounding is monotone.
  bool Loses(float highest, uint32_t bits) const {
    const float gap = value_ - highest;
    if (!(gap >= 0 && gap < 17)) return false;
    const auto whole = static_cast<size_t>(gap);
    return highest + static_cast<float>(whole) < value_ && bits >> 9 <= kMostBits[whole];
  }
  void Offer(float score, int32_t token, uint32_t bits) {
    const float value = score + Gumbel(bits);
    if (value > value_ || (value == value_ && token < token_)) value_ = value, token_ = token;
  }

  const SamplingRow& row_;
  float value_ = kImpossible;
  int32_t token_ = -1;
};

}  // namespace

void Sampler::Sample(std::span<const float> logits, const SamplingInput& input, size_t row_index,
                     SamplingOutput& output) {
  const SamplingRow& row = input.rows[row_index];
  const std::span<const float> adjusted = row.adjusted() ? Adjust(logits, input, row) : logits;
  const Best best = ArgMax(adjusted);
  const int32_t token =
      best.token >= 0 && row.temperature > 0 ? Draw(adjusted, best.token, row) : best.token;
  output.tokens[row_index] = token;
  output.logprobs[row_index] = {-1, 0, 0};
  output.top[row_index].clear();
  if (token < 0 || row.num_logprobs < 0) return;
  const float maximum = row.adjusted() ? ArgMax(logits).value : best.value;
  const float log_sum = LogSumExp(logits, maximum);
  output.logprobs[row_index] = LogprobOf(logits, log_sum, token);
  if (row.num_logprobs > 0) {
    BestLogprobs(logits, log_sum, static_cast<size_t>(row.num_logprobs), output.top[row_index]);
  }
}

void Sampler::Logprobs(std::span<const float> logits, int32_t token, size_t count,
                       TokenLogprob& logprob, std::vector<TokenLogprob>& top) {
  const float log_sum = LogSumExp(logits, ArgMax(logits).value);
  logprob = LogprobOf(logits, log_sum, token);
  BestLogprobs(logits, log_sum, count, top);
}

std::span<const float> Sampler::Adjust(std::span<const float> logits, const SamplingInput& input,
                                       const SamplingRow& row) {
  adjusted_.assign(logits.begin(), logits.end());
  if (row.first_allowed >= 0) {
    KeepAllowed(std::span(input.allowed)
                    .subspan(static_cast<size_t>(row.first_allowed), (logits.size() + 31) / 32),
                adjusted_);
  }
  const auto part = [](const auto& all, int32_t first, int32_t count) {
    return std::span(all).subspan(static_cast<size_t>(first), static_cast<size_t>(count));
  };
  // Users name tokens that the vocabulary may not have.
  const auto known = [&](int32_t token) {
    return token >= 0 && static_cast<size_t>(token) < logits.size();
  };
  for (const TokenBias& bias : part(input.biases, row.first_bias, row.num_biases)) {
    if (known(bias.token)) adjusted_[static_cast<size_t>(bias.token)] += bias.bias;
  }
  for (const SeenToken& seen : part(input.seen, row.first_seen, row.num_seen)) {
    if (!known(seen.token)) continue;
    float& logit = adjusted_[static_cast<size_t>(seen.token)];
    logit = Penalize(logit, row, seen.times);
  }
  return adjusted_;
}

void Sampler::KeepLargest(std::span<const float> values, size_t count, float least) {
  const auto larger = [](const Candidate& a, const Candidate& b) { return a.value > b.value; };
  const auto prune = [&] {
    if (candidates_.size() <= count) return;
    const auto last = candidates_.begin() + static_cast<ptrdiff_t>(count) - 1;
    std::ranges::nth_element(candidates_, last, larger);
    least = last->value;
    std::erase_if(candidates_, [&](const Candidate& c) { return c.value < least; });
  };
  candidates_.clear();
  // Pruned whenever what may be dropped is the larger part, so that a pass takes O(V).
  size_t full = 2 * count + 512;
  for (size_t i = 0; i < values.size(); ++i) {
    if (!(values[i] >= least)) continue;
    candidates_.push_back({values[i], static_cast<int32_t>(i)});
    if (candidates_.size() < full) continue;
    prune();
    full = 2 * candidates_.size() + 512;
  }
  prune();
}

float Sampler::NucleusScore(float best, float top_p) {
  // Whole numbers, as on the device, so that no order of summation can be seen.
  const auto mass = [&](float score) {
    return static_cast<uint64_t>(std::llrint(std::exp(score - best) * 0x1p40f));
  };
  const auto bin = [&](float score) {
    return static_cast<size_t>(std::min((best - score) * 64, 2047.0f));
  };
  masses_.fill(0);
  uint64_t total = 0;
  for (const Candidate& c : candidates_) {
    const uint64_t m = mass(c.value);
    masses_[bin(c.value)] += m;
    total += m;
  }
  const double wanted = std::ceil(static_cast<double>(total) * top_p);
  uint64_t left = std::clamp<uint64_t>(static_cast<uint64_t>(std::max(wanted, 1.0)), 1, total);
  size_t last = 0;
  while (masses_[last] < left) left -= masses_[last++];
  // The nucleus ends in this bin, which alone is put in order.
  std::erase_if(candidates_, [&](const Candidate& c) { return bin(c.value) > last; });
  const auto inside =
      std::ranges::partition(candidates_, [&](const Candidate& c) { return bin(c.value) < last; });
  std::ranges::sort(inside, std::ranges::greater{}, &Candidate::value);
  for (const Candidate& c : inside) {
    const uint64_t m = mass(c.value);
    if (m >= left) return c.value;
    left -= m;
  }
  return inside.back().value;
}

int32_t Sampler::Draw(std::span<const float> logits, int32_t best, const SamplingRow& row) {
  scores_.resize(logits.size());
  for (size_t i = 0; i < logits.size(); ++i) scores_[i] = logits[i] / row.temperature;
  const float best_score = scores_[static_cast<size_t>(best)];
  if (!std::isfinite(best_score)) return best;  // no noise would change it
  float least = std::numeric_limits<float>::lowest();
  if (row.min_p > 0) least = best_score + std::min(0.0f, std::log(row.min_p));
  Race race(row, {best, best_score});
  const size_t size = scores_.size();
  const bool top_k = row.top_k > 0 && static_cast<size_t>(row.top_k) < size, top_p = row.top_p < 1;
  if (!top_k && !top_p) {
    for (size_t i = 0; i < size; i += 4) {
      race.OfferFour(std::span(scores_).subspan(i, std::min<size_t>(4, size - i)),
                     static_cast<int32_t>(i), least);
    }
    return race.winner();
  }
  // Below 28 a mass is no whole number any more, so that top-p ends above.
  if (top_p) least = std::max(least, best_score - 29);
  KeepLargest(scores_, top_k ? static_cast<size_t>(row.top_k) : size, least);
  if (top_p) least = NucleusScore(best_score, row.top_p);
  for (const Candidate& c : candidates_) {
    if (c.value >= least && race.MayWin(c.value)) race.Offer(c.value, c.token);
  }
  return race.winner();
}

void Sampler::BestLogprobs(std::span<const float> logits, float log_sum, size_t count,
                           std::vector<TokenLogprob>& top) {
  scores_.resize(logits.size());
  for (size_t i = 0; i < logits.size(); ++i) scores_[i] = logits[i] - log_sum;
  KeepLargest(scores_, std::min(count, logits.size()), kImpossible);
  std::ranges::sort(candidates_, [](const Candidate& a, const Candidate& b) {
    return a.value != b.value ? a.value > b.value : a.token < b.token;
  });
  candidates_.resize(std::min(count, candidates_.size()));
  for (const Candidate& c : candidates_) {
    top.push_back({c.token, c.value, static_cast<int32_t>(top.size()) + 1});
  }
}

}  // namespace tangram::ops
