#pragma once

#include <span>

namespace tangram {

// A mean and its 95% confidence interval.
struct Interval {
  double mean = 0, low = 0, high = 0;
};

// Percentile bootstrap over contexts (Efron and Tibshirani 1993, chapter 13): 4000 resamples of the
// values, with a fixed seed. A value is one context's; for paired differences, the difference.
Interval BootstrapMean(std::span<const double> values);

}  // namespace tangram
