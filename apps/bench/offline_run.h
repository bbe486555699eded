#pragma once

#include <vector>

#include "bench/dataset.h"
#include "engine/engine.h"

namespace tangram::apps::bench {

// Times in seconds of the steady clock.
struct OfflineResult {
  double start = 0, end = 0;
  std::vector<std::vector<double>> token_times;  // of each request, when its tokens came
};

// Runs all prompts on the engine, greedily and to their full output length. `on_done`, if any, is
// called as each one ends. An error if one is refused or the engine fails.
Result<OfflineResult> RunOffline(Engine& engine, const std::vector<BenchPrompt>& prompts,
                                 const std::function<void()>& on_done = {});

}  // namespace tangram::apps::bench
