// The gate of Fast KVzip: the CPU against the reference.

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

 private:
  Shape shape_;
  std::vector<float> values_;
};

TEST(FastKvzipTest, EqualsTheReference) {
  std::mt19937 random(3);
  Values queries(random, {kTokens, kHeads * kGroup * kSize}),
      keys(random, {kTokens, kHeads * kSize});
  Values q_norm(random, {kSize}), k_norm(random, {kSize});
  Values base(random, {kHeads, 1, kSinks, kSize}), bias(random, {kHeads, 1, kGroup});
  FastKvzipParams p{queries.view(), keys.view(), {}, {}};
  p.gate.q_norm = q_norm.view();
  p.gate.k_norm = k_norm.view();
  p.gate.base = base.view();
  p.gate.bias = bias.view();
  const auto run = [&](Backend& backend) {
    std::vector<float> scores(kTokens * kHeads, NAN);
    p.scores = {scores.data(), DType::kF32, {kTokens, kHeads}};
    backend.FastKvzip(p);
    return scores;
  };
  const std::vector<float> expected = run(*CreateReferenceBackend()),
                           scores = run(*CreateCpuBackend(2));
  for (size_t i = 0; i < scores.size(); ++i) {
    EXPECT_NEAR(scores[i], expected[i], 1e-5 * expected[i]) << "of token " << i / kHeads;
  }
}

}  // namespace
}  // namespace tangram::ops
