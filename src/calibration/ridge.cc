#include "calibration/ridge.h"

#include <Eigen/Cholesky>
#include <Eigen/Core>

namespace tangram {

using RowMajor = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

namespace {

// Eigen cuts its sums as the machine's caches are large: with these instead, a profile is the same
// to the bit on processors of different makes.
void FixOrderOfSums() {
  static const bool fixed = [] {
    Eigen::setCpuCacheSizes(32 << 10, 512 << 10, 16 << 20);
    return true;
  }();
  static_cast<void>(fixed);
}

}  // namespace

struct RidgeRegression::Sums {
  Eigen::MatrixXd xx;  // [inputs + 1]^2, lower triangle
  Eigen::MatrixXd xy;  // [inputs + 1, outputs]
};

RidgeRegression::RidgeRegression(int inputs, int outputs) : sums_(new Sums) {
  FixOrderOfSums();
  sums_->xx = Eigen::MatrixXd::Zero(inputs + 1, inputs + 1);
  sums_->xy = Eigen::MatrixXd::Zero(inputs + 1, outputs);
}
RidgeRegression::~RidgeRegression() = default;
RidgeRegression::RidgeRegression(RidgeRegression&&) noexcept = default;

void RidgeRegression::Add(const float* x, const float* y, int count) {
  const Eigen::Index inputs = sums_->xx.rows() - 1, outputs = sums_->xy.cols();
  Eigen::MatrixXd with_one(inputs + 1, count);
  with_one.topRows(inputs) =
      Eigen::Map<const RowMajor>(x, count, inputs).transpose().cast<double>();
  with_one.bottomRows(1).setOnes();
  sums_->xx.selfadjointView<Eigen::Lower>().rankUpdate(with_one);
  sums_->xy.noalias() += with_one * Eigen::Map<const RowMajor>(y, count, outputs).cast<double>();
}

void RidgeRegression::Solve(double ridge, float* weight, float* bias) const {
  Eigen::MatrixXd xx = sums_->xx.selfadjointView<Eigen::Lower>();
  xx.diagonal().array() += ridge * xx.diagonal().mean();
  const Eigen::MatrixXd w = xx.ldlt().solve(sums_->xy);
  const Eigen::Index inputs = w.rows() - 1, outputs = w.cols();
  Eigen::Map<RowMajor>(weight, outputs, inputs) = w.topRows(inputs).transpose().cast<float>();
  Eigen::Map<Eigen::VectorXf>(bias, outputs) = w.row(inputs).transpose().cast<float>();
}

}  // namespace tangram
