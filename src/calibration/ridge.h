#pragma once

#include <memory>
#include <vector>

namespace tangram {

// Linear regression with an L2 penalty from sums over samples, so that no sample is kept: w = (X'X
// + ridge * mean(diag(X'X)) I)^-1 X'Y, with a constant 1 appended to each x.
class RidgeRegression {
 public:
  RidgeRegression(int inputs, int outputs);
  ~RidgeRegression();
  RidgeRegression(RidgeRegression&&) noexcept;

  // x [count, inputs], y [count, outputs], row-major.
  void Add(const float* x, const float* y, int count);
  // weight [outputs, inputs], bias [outputs].
  void Solve(double ridge, float* weight, float* bias) const;

 private:
  struct Sums;
  std::unique_ptr<Sums> sums_;
};

}  // namespace tangram
