#pragma once

#include <prometheus/metric_family.h>

#include <string>
#include <vector>

#include "engine/engine.h"

namespace tangram::server {

// Gauges and counters that are read off the engine when somebody asks.
std::vector<prometheus::MetricFamily> EngineMetrics(const EngineStats& stats,
                                                    const EngineInfo& info,
                                                    const std::string& model_name);

// process_cpu_seconds_total, process_resident_memory_bytes and the like, from /proc.
std::vector<prometheus::MetricFamily> ProcessMetrics();

}  // namespace tangram::server
