// The gate of Fast KVzip, against its formula in float64.

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

#include "ops/backend.h"

namespace tangram::ops {
namespace {

constexpr int kTokens = 9, kHeads = 3, kGroup = 2, kSize = 16, kSinks = 5;

class Values {
 public:
  Values(std::mt19937& random, const Shape& shape) : shape_(shape) {
    std::normal_distribution<float> normal;
    for (int64_t i = 0; i < shape.count(); ++i) values_.push_back(normal(random));
  }
  TensorView view() { return {values_.data(), DType::kF32, shape_}; }
  std::vector<double> Row(int64_t index) const {
    const auto first = values_.begin() + index * kSize;
    return std::vector<double>(first, first + kSize);
  }
  double operator[](int64_t i) const { return values_[static_cast<size_t>(i)]; }

 private:
  Shape shape_;
  std::vector<float> values_;
};

std::vector<double> Normed(std::vector<double> x, const Values& weight) {
  double squares = 0;
  for (const double v : x) squares += v * v;
  for (size_t i = 0; i < x.size(); ++i) {
    x[i] *= weight[static_cast<int64_t>(i)] / std::sqrt(squares / kSize + 1e-6);
  }
  return x;
}

double Dot(const std::vector<double>& a, const std::vector<double>& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i] / std::sqrt(double{kSize});
  return sum;
}

class FastKvzipTest : public testing::TestWithParam<std::string> {};

TEST_P(FastKvzipTest, FollowsItsFormula) {
  auto backend = GetParam() == "cpu" ? CreateCpuBackend(2) : CreateReferenceBackend();
  std::mt19937 random(3);
  Values queries(random, {kTokens, kHeads * kGroup * kSize}),
      keys(random, {kTokens, kHeads * kSize});
  Values q_norm(random, {kSize}), k_norm(random, {kSize});
  Values base(random, {kHeads, 1, kSinks, kSize}), bias(random, {kHeads, 1, kGroup});
  std::vector<float> scores(kTokens * kHeads);
  FastKvzipParams p{
      queries.view(), keys.view(), {}, {scores.data(), DType::kF32, {kTokens, kHeads}}};
  p.gate.q_norm = q_norm.view();
  p.gate.k_norm = k_norm.view();
  p.gate.base = base.view();
  p.gate.bias = bias.view();
  backend->FastKvzip(p);
  for (int t = 0; t < kTokens; ++t) {
    for (int h = 0; h < kHeads; ++h) {
      const auto key = Normed(keys.Row(t * kHeads + h), k_norm);
      double expected = 0;
      for (int g = 0; g < kGroup; ++g) {
        const auto query = Normed(queries.Row((t * kHeads + h) * kGroup + g), q_norm);
        const double logit = Dot(key, query) + bias[h * kGroup + g];
        double sum = 1;
        for (int s = 0; s < kSinks; ++s) {
          sum += std::exp(Dot(base.Row(h * kSinks + s), query) - logit);
        }
        expected += 1 / sum / kGroup;
      }
      EXPECT_NEAR(scores[static_cast<size_t>(t * kHeads + h)], expected, 1e-5 * expected);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Backends, FastKvzipTest, testing::Values("reference", "cpu"),
                         [](const auto& test) { return test.param; });

}  // namespace
}  // namespace tangram::ops
