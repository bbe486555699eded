#pragma once

#include <string>
#include <vector>

namespace tangram::apps::bench {

double Mean(const std::vector<double>& values);
// Of the whole population (numpy's default).
double StandardDeviation(const std::vector<double>& values);
// Linear between neighbours (numpy's default). 0 of no values; `percent` in [0, 100].
double Percentile(std::vector<double> values, double percent);

// "50" and "99.9", as keys and labels write percentiles.
std::string PercentText(double percent);

}  // namespace tangram::apps::bench
