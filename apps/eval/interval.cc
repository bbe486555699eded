#include "eval/interval.h"

#include <numeric>
#include <random>
#include <vector>

#include "bench/statistics.h"

namespace tangram::apps::eval {

Interval BootstrapMean(std::span<const double> values) {
  constexpr int kResamples = 4000;
  if (values.empty()) return {};
  const auto count = static_cast<double>(values.size());
  std::mt19937_64 random(20251124);
  std::vector<double> means;
  means.reserve(kResamples);
  for (int i = 0; i < kResamples; ++i) {
    double sum = 0;
    for (size_t j = 0; j < values.size(); ++j) sum += values[random() % values.size()];
    means.push_back(sum / count);
  }
  const double mean = std::accumulate(values.begin(), values.end(), 0.0) / count;
  return {mean, bench::Percentile(means, 2.5), bench::Percentile(means, 97.5), values.size()};
}

}  // namespace tangram::apps::eval
