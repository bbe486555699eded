#pragma once

#include <chrono>
#include <cstdint>
#include <string>

#include "base/log.h"
#include "engine/engine.h"

namespace tangram::server {

// The periodic line on throughput and load, in the words that operators of vLLM look for.
class StatsLogger {
 public:
  using Clock = std::chrono::steady_clock;

  // The line for the time since the last call, or since the start. `idle`: nothing has happened.
  std::string Line(const EngineStats& stats, uint64_t rejected, Clock::time_point now, bool* idle);

 private:
  EngineStats last_;
  Clock::time_point last_time_ = Clock::now();
};

}  // namespace tangram::server
