#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "ops/cuda/compress/score_queries.h"
#include "ops/cuda/device_array.h"

namespace tangram {
namespace {

using ops::cuda::DeviceArray;

TEST(FastKvzip, AgreesWithDouble) {
  const int tokens = 100, heads = 3, group = 5, dim = 16, sinks = 16;
  std::mt19937 generator(1);
  std::normal_distribution<float> normal;
  auto random = [&](size_t size) {
    std::vector<float> x(size);
    for (float& v : x) v = normal(generator);
    return x;
  };
  const auto projected = random(tokens * heads * (group + 1) * dim), q_norm = random(dim),
             k_norm = random(dim), base = random(heads * sinks * dim), bias = random(heads * group);
  const DeviceArray<float> p(projected), qn(q_norm), kn(k_norm), b(base), o(bias);
  DeviceArray<float> scores(tokens * heads);
  scores.FillBytes(0xff);
  ops::cuda::RunFastKvzip({p.data(), tokens, heads, group, dim, sinks, qn.data(), kn.data(),
                           b.data(), o.data(), 1e-6f, scores.data()},
                          nullptr);
  const auto got = scores.Download();
  // A token's score does not depend on which come with it.
  const int cut = 37;
  DeviceArray<float> rest((tokens - cut) * heads);
  ops::cuda::RunFastKvzip(
      {p.data() + cut * heads * (group + 1) * dim, tokens - cut, heads, group, dim, sinks,
       qn.data(), kn.data(), b.data(), o.data(), 1e-6f, rest.data()},
      nullptr);
  EXPECT_EQ(0, std::memcmp(rest.Download().data(), &got[cut * heads], rest.bytes()));
  auto normed = [&](const float* x, const std::vector<float>& weight) {
    double squares = 0;
    std::vector<double> y(dim);
    for (int i = 0; i < dim; ++i) squares += double{x[i]} * x[i];
    for (int i = 0; i < dim; ++i) y[i] = x[i] / std::sqrt(squares / dim + 1e-6) * weight[i];
    return y;
  };
  for (int t = 0; t < tokens; ++t) {
    const float* row = &projected[size_t{1} * t * heads * (group + 1) * dim];
    for (int h = 0; h < heads; ++h) {
      const auto key = normed(row + (heads * group + h) * dim, k_norm);
      double score = 0;
      for (int g = 0; g < group; ++g) {
        const auto query = normed(row + (h * group + g) * dim, q_norm);
        double own = bias[h * group + g], others = 0;
        for (int i = 0; i < dim; ++i) own += query[i] * key[i] / 4;
        for (int s = 0; s < sinks; ++s) {
          double logit = -own;
          for (int i = 0; i < dim; ++i) logit += query[i] * base[(h * sinks + s) * dim + i] / 4;
          others += std::exp(logit);
        }
        score += 1 / (1 + others) / group;
      }
      ASSERT_NEAR(got[t * heads + h], score, 1e-4 * score) << t << " " << h;
    }
  }
}

}  // namespace
}  // namespace tangram
