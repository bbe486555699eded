#pragma once

#include <prometheus/metric_family.h>

#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "engine/engine.h"

namespace tangram::server {

using Labels = std::vector<prometheus::ClientMetric::Label>;

// A family whose samples all have `common` labels.
class Family {
 public:
  using MetricType = prometheus::MetricType;
  Family(MetricType type, std::string name, std::string help, Labels common)
      : common_(std::move(common)) {
    family_.type = type;
    family_.name = std::move(name);
    family_.help = std::move(help);
  }
  Family& Add(double value, Labels labels = {}) {
    prometheus::ClientMetric& metric = family_.metric.emplace_back();
    metric.label = common_;
    metric.label.insert(metric.label.end(), labels.begin(), labels.end());
    (family_.type == MetricType::Counter ? metric.counter.value : metric.gauge.value) = value;
    return *this;
  }
  template <class Bounds>
  Family& Add(const StepHistogram<Bounds>& values) {
    prometheus::ClientMetric& metric = family_.metric.emplace_back();
    metric.label = common_;
    metric.histogram.sample_sum = static_cast<double>(values.sum);
    for (size_t i = 0; i < values.counts.size(); ++i) {
      const bool bounded = i < Bounds::kBounds.size();
      metric.histogram.sample_count += values.counts[i];
      metric.histogram.bucket.push_back(
          {metric.histogram.sample_count, bounded ? static_cast<double>(Bounds::kBounds[i])
                                                  : std::numeric_limits<double>::infinity()});
    }
    return *this;
  }
  prometheus::MetricFamily Take() { return std::move(family_); }

 private:
  Labels common_;
  prometheus::MetricFamily family_;
};

}  // namespace tangram::server
