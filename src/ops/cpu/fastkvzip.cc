#include <cmath>
#include <vector>

#include "ops/cpu/compression.h"

namespace tangram::ops {
namespace {

constexpr float kEpsilon = 1e-6f;  // of the published gate's norms

void Norm(const float* in, const TensorView& weight, float* out) {
  const auto size = static_cast<int>(weight.shape[0]);
  float sum = 0;
  for (int i = 0; i < size; ++i) sum += in[i] * in[i];
  const float scale = 1 / std::sqrt(sum / static_cast<float>(size) + kEpsilon);
  for (int i = 0; i < size; ++i) out[i] = in[i] * scale * weight.as<float>()[i];
}

float Dot(const float* a, const float* b, int size) {
  float sum = 0;
  for (int i = 0; i < size; ++i) sum += a[i] * b[i];
  return sum;
}

}  // namespace

void FastKvzipToken(const FastKvzipParams& p, int64_t token) {
  const FastKvzipGate& gate = p.gate;
  const int size = static_cast<int>(gate.q_norm.shape[0]);
  const int sinks = static_cast<int>(gate.base.shape[2]);
  const int group = static_cast<int>(gate.bias.shape[2]);
  const int64_t heads = p.scores.shape[1];
  const float scale = 1 / std::sqrt(static_cast<float>(size));
  std::vector<float> query(static_cast<size_t>(size)), key(static_cast<size_t>(size));
  for (int64_t h = 0; h < heads; ++h) {
    Norm(p.keys.as<float>() + (token * heads + h) * size, gate.k_norm, key.data());
    float sum = 0;
    for (int64_t g = 0; g < group; ++g) {
      const int64_t q_head = h * group + g;
      Norm(p.queries.as<float>() + (token * heads * group + q_head) * size, gate.q_norm,
           query.data());
      const float logit =
          Dot(key.data(), query.data(), size) * scale + gate.bias.as<float>()[q_head];
      float others = 0;
      for (int64_t s = 0; s < sinks; ++s) {
        const float* base = gate.base.as<float>() + (h * sinks + s) * size;
        others += std::exp(Dot(base, query.data(), size) * scale - logit);
      }
      sum += 1 / (1 + others);
    }
    p.scores.as<float>()[token * heads + h] = sum / static_cast<float>(group);
  }
}

}  // namespace tangram::ops
