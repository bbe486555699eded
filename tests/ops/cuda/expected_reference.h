#pragma once

#include <cmath>
#include <vector>

namespace tangram {

// Means, covariance and scores of ExpectedAttention in float64.
struct ExpectedReference {
  int d;
  std::vector<float> inv_freq;
  bool interleaved, covariance;
  int future;

  int First(int pair) const { return interleaved ? 2 * pair : pair; }
  int Second(int pair) const { return interleaved ? 2 * pair + 1 : pair + d / 2; }
  void Rotate(std::vector<double>& x, double c, double s, int pair) const {
    const double a = x[First(pair)], b = x[Second(pair)];
    x[First(pair)] = a * c - b * s;
    x[Second(pair)] = b * c + a * s;
  }
  // Of R^-1 q for each of `queries`, the first at position `begin`.
  std::vector<std::vector<double>> Unrotated(const std::vector<const float*>& queries,
                                             int begin) const {
    std::vector<std::vector<double>> all;
    for (size_t t = 0; t < queries.size(); ++t) {
      std::vector<double> x(queries[t], queries[t] + d);
      for (int pair = 0; pair < d / 2; ++pair) {
        const double angle = static_cast<float>(begin + static_cast<int>(t)) * inv_freq[pair];
        Rotate(x, std::cos(angle), -std::sin(angle), pair);
      }
      all.push_back(x);
    }
    return all;
  }
  // R'x for each of `keys`, R the mean of the rotations from position `begin` on: (R mu).k =
  // mu.(R'k), and the same for the covariance.
  std::vector<std::vector<double>> MeanRotated(const std::vector<const float*>& keys,
                                               int begin) const {
    std::vector<std::vector<double>> all;
    for (const float* key : keys) all.emplace_back(key, key + d);
    for (int pair = 0; pair < d / 2; ++pair) {
      double c = 0, s = 0;
      for (int i = 0; i < future; ++i) {
        c += std::cos(double{inv_freq[pair]} * (begin + i)) / future;
        s += std::sin(double{inv_freq[pair]} * (begin + i)) / future;
      }
      for (auto& key : all) Rotate(key, c, -s, pair);
    }
    return all;
  }
  // Logits of the keys, as MeanRotated gives them.
  std::vector<double> Logits(const std::vector<std::vector<double>>& queries,
                             const std::vector<std::vector<double>>& keys) const {
    std::vector<double> mean(d, 0.0), logits;
    for (const auto& q : queries) {
      for (int i = 0; i < d; ++i) mean[i] += q[i] / queries.size();
    }
    for (const auto& k : keys) {
      double dot = 0, squares = 0;
      for (int i = 0; i < d; ++i) dot += mean[i] * k[i];
      for (const auto& q : queries) {  // k'Sigma k is the variance of q.k
        double along = -dot;
        for (int i = 0; i < d; ++i) along += q[i] * k[i];
        squares += along * along / queries.size();
      }
      logits.push_back(dot / std::sqrt(d) + (covariance ? squares / (2 * d) : 0));
    }
    return logits;
  }
};

}  // namespace tangram
