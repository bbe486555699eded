#pragma once

#include <cstddef>
#include <span>

namespace tangram::apps::eval {

// A mean and its 95% confidence interval; of one value there is none, and low and high are the
// mean.
struct Interval {
  double mean = 0, low = 0, high = 0;
  std::size_t count = 0;  // of values
};

// Percentile bootstrap over contexts (Efron and Tibshirani 1993, chapter 13): 4000 resamples of the
// values, with a fixed seed. A value is one context's; for paired differences, the difference.
Interval BootstrapMean(std::span<const double> values);

}  // namespace tangram::apps::eval
