#include "model/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "base/check.h"
#include "base/log.h"

namespace tangram {
namespace {

constexpr double kTwoPi = 2 * std::numbers::pi;

// NTK-aware base for a context of `length` (Hugging Face's "dynamic"): theta * (f*length/original -
// (f - 1))^(d/(d-2)).
double DynamicTheta(const RopeConfig& rope, int d, int length) {
  const double original = rope.original_max_position;
  const double stretch = rope.factor * std::max<double>(length, original) / original;
  return rope.theta * std::pow(stretch - (rope.factor - 1), d / (d - 2.0));
}

// Llama 3.1: long wavelengths are divided by the factor, short ones stay, those between are
// blended.
double ScaleLlama3(const RopeConfig& rope, double freq) {
  const double rotations = rope.original_max_position * freq / kTwoPi;  // over the original context
  if (rotations < rope.low_freq_factor) return freq / rope.factor;
  if (rotations > rope.high_freq_factor) return freq;
  const double smooth =
      (rotations - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor);
  return (1 - smooth) * freq / rope.factor + smooth * freq;
}

// YaRN (arXiv 2309.00071, section 3.2): dimensions that turn more than beta_fast times over the
// original context stay, those below beta_slow are divided by the factor, with a linear ramp over
// the dimensions between.
double ScaleYarn(const RopeConfig& rope, int d, int i, double freq) {
  const auto dimension = [&](double rotations) {
    return d * std::log(rope.original_max_position / (rotations * kTwoPi)) /
           (2 * std::log(rope.theta));
  };
  const double low = std::max(std::floor(dimension(rope.beta_fast)), 0.0);
  double high = std::min(std::ceil(dimension(rope.beta_slow)), d - 1.0);
  if (low == high) high += 0.001;
  const double ramp = std::clamp((i - low) / (high - low), 0.0, 1.0);
  return freq / rope.factor * ramp + freq * (1 - ramp);
}

double Scale(const RopeConfig& rope, int d, int i, double freq) {
  switch (rope.scaling) {
    case RopeScaling::kLinear:
      return freq / rope.factor;
    case RopeScaling::kLlama3:
      return ScaleLlama3(rope, freq);
    case RopeScaling::kYarn:
      return ScaleYarn(rope, d, i, freq);
    case RopeScaling::kNone:
    case RopeScaling::kDynamic:
      break;
  }
  return freq;
}

}  // namespace

RotaryTable MakeRotaryTable(const RopeConfig& rope, int head_dim, int served_length,
                            std::span<const float> divisors) {
  const int half = head_dim / 2;
  TANGRAM_CHECK(divisors.empty() || static_cast<int>(divisors.size()) == half, "{} for {}",
                divisors.size(), half);
  double theta = rope.theta;
  if (rope.scaling == RopeScaling::kDynamic) {
    theta = DynamicTheta(rope, head_dim, served_length);
    LogInfo("rope scaling 'dynamic': one base, {:.1f}, for the served length of {} tokens", theta,
            served_length);
  }
  RotaryTable table;
  for (int i = 0; i < half; ++i) {
    const double freq = std::pow(theta, -2.0 * i / head_dim);
    const double divisor = divisors.empty() ? 1.0 : divisors[i];
    table.inv_freq.push_back(static_cast<float>(Scale(rope, head_dim, i, freq) / divisor));
  }
  if (rope.scaling == RopeScaling::kYarn) table.scale = static_cast<float>(rope.attention_factor);
  return table;
}

}  // namespace tangram
