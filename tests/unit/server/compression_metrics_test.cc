#include "server/compression_metrics.h"

#include <gtest/gtest.h>

#include <map>

namespace tangram::server {
namespace {

struct Samples {
  explicit Samples(const EngineStats& stats, bool compressed = true) {
    EngineInfo info;
    info.compression.ratio = compressed ? 0.3f : 1.0f;
    info.scorer = "gate";
    info.level = "cross-layer";
    for (const auto& family : CompressionMetrics(stats, info, "model")) {
      for (const auto& metric : family.metric) {
        std::string name = family.name;
        for (const auto& label : metric.label) {
          if (label.name != "model_name" && label.name != "engine") name += "|" + label.value;
        }
        values[name] = family.type == prometheus::MetricType::Counter ? metric.counter.value
                                                                      : metric.gauge.value;
        if (family.type == prometheus::MetricType::Histogram) histogram = metric.histogram;
      }
    }
  }
  std::map<std::string, double> values;
  prometheus::ClientMetric::Histogram histogram;
};

TEST(CompressionMetrics, PagesAddUpToThePool) {
  EngineStats stats;
  stats.pages_total = 100;
  stats.pages_held = 40;
  stats.pages_cached = 50;
  stats.pages_reserved = 25;  // more than are free: cached ones will go
  const Samples samples(stats);
  EXPECT_EQ(samples.values.at("tangram:kv_pages|used"), 40);
  EXPECT_EQ(samples.values.at("tangram:kv_pages|reserved"), 25);
  EXPECT_EQ(samples.values.at("tangram:kv_pages|free"), 0);
  EXPECT_EQ(samples.values.at("tangram:kv_pages|cached"), 35);
}

TEST(CompressionMetrics, CountersCarryTheirLabels) {
  EngineStats stats;
  stats.logical_tokens = 1000;
  stats.resident_tokens = 400;
  stats.longest_tokens = 900;
  stats.compression_runs = 7;
  stats.pages_reclaimed = 210;
  stats.blocked_by_pages = 1;
  stats.blocked_by_slots = 2;
  stats.blocked_by_tokens = 3;
  stats.sessions = 12;
  stats.sessions_evicted = 5;
  stats.sessions_cleared = 1;
  const Samples samples(stats);
  EXPECT_EQ(samples.values.at("tangram:kv_logical_tokens"), 1000);
  EXPECT_EQ(samples.values.at("tangram:kv_resident_tokens"), 400);
  EXPECT_EQ(samples.values.at("tangram:row_length_imbalance"), 2.25);
  EXPECT_EQ(samples.values.at("tangram:compression_runs_total|gate|cross-layer"), 7);
  EXPECT_EQ(samples.values.at("tangram:kv_pages_reclaimed_total"), 210);
  EXPECT_EQ(samples.values.at("tangram:admission_blocked_total|pages"), 1);
  EXPECT_EQ(samples.values.at("tangram:admission_blocked_total|slots"), 2);
  EXPECT_EQ(samples.values.at("tangram:admission_blocked_total|tokens"), 3);
  EXPECT_EQ(samples.values.at("tangram:sessions"), 12);
  EXPECT_EQ(samples.values.at("tangram:session_evictions_total|pages"), 5);
  EXPECT_EQ(samples.values.at("tangram:session_evictions_total|cleared"), 1);
}

TEST(CompressionMetrics, StepsAreCountedUpToTheirBound) {
  EngineStats stats;
  for (const double seconds : {0.0, 0.0005, 0.001, 0.02, 60.0}) {
    stats.compression_seconds.Add(seconds);
  }
  const auto histogram = Samples(stats).histogram;
  EXPECT_EQ(histogram.sample_count, 5u);
  EXPECT_NEAR(histogram.sample_sum, 60.0215, 1e-9);
  ASSERT_EQ(histogram.bucket.size(), SecondsBounds::kBounds.size() + 1);
  EXPECT_EQ(histogram.bucket[2].upper_bound, 1e-3);
  EXPECT_EQ(histogram.bucket[2].cumulative_count, 3u);
  EXPECT_EQ(histogram.bucket.back().cumulative_count, 5u);
}

TEST(CompressionMetrics, WithoutCompressionThereAreNoRuns) {
  const Samples samples({}, /*compressed=*/false);
  EXPECT_EQ(samples.values.at("tangram:row_length_imbalance"), 1);
  for (const auto& [name, value] : samples.values) {
    EXPECT_EQ(name.find("compression"), std::string::npos) << name;
  }
}

}  // namespace
}  // namespace tangram::server
