#pragma once

#include <prometheus/metric_family.h>

#include <string>
#include <vector>

#include "engine/engine.h"

namespace tangram::server {

// What the KV cache holds and keeps, and what compression does to it.
std::vector<prometheus::MetricFamily> CompressionMetrics(const EngineStats& stats,
                                                         const EngineInfo& info,
                                                         const std::string& model_name);

}  // namespace tangram::server
