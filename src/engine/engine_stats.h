#pragma once

#include <algorithm>
#include <array>
#include <cstdint>

#include "sched/scheduler.h"

namespace tangram {

// counts[i] values were at most kBounds[i] and more than the bound before, the last ones more than
// all bounds.
template <class Bounds>
struct StepHistogram {
  using Value = typename decltype(Bounds::kBounds)::value_type;
  std::array<uint64_t, Bounds::kBounds.size() + 1> counts{};
  Value sum = 0;

  void Add(Value value) {
    const auto bound = std::ranges::lower_bound(Bounds::kBounds, value);
    ++counts[static_cast<size_t>(bound - Bounds::kBounds.begin())];
    sum += value;
  }
};
struct SecondsBounds {
  static constexpr std::array<double, 10> kBounds = {1e-5, 1e-4, 1e-3, 3e-3, 0.01,
                                                     0.03, 0.1,  0.3,  1,    3};
};
struct StepTokensBounds {  // vLLM's
  static constexpr std::array<int64_t, 13> kBounds = {1,   8,    16,   32,   64,   128,  256,
                                                      512, 1024, 2048, 4096, 8192, 16384};
};

// A snapshot for metrics and logs; totals since the start.
struct EngineStats {
  int num_running = 0, num_waiting = 0;
  int64_t pages_total = 0, pages_held = 0, pages_cached = 0, pages_reserved = 0;
  int64_t logical_tokens = 0, resident_tokens = 0, longest_tokens = 0;
  uint64_t compression_runs = 0, pages_reclaimed = 0;
  uint64_t blocked_by_pages = 0, blocked_by_slots = 0, blocked_by_tokens = 0;
  StepHistogram<SecondsBounds> compression_seconds;  // of a step; none without compression
  uint64_t prompt_tokens = 0, generation_tokens = 0;
  uint64_t num_preemptions = 0, prefix_cache_queries = 0, prefix_cache_hits = 0;
  int64_t sessions = 0;  // conversations that the prefix cache keeps
  uint64_t sessions_evicted = 0, sessions_cleared = 0;
  uint64_t num_steps = 0;
  StepHistogram<StepTokensBounds> step_tokens;
  // Of the engine's thread: deciding steps, handing them to the backend (which computes them, or
  // queues them), rows of sampling and what came of them, and waiting for tokens.
  double schedule_seconds = 0, forward_seconds = 0, sample_seconds = 0, wait_seconds = 0;

  // Takes over what the scheduler counts.
  void Take(const SchedulerStats& scheduler);
};

}  // namespace tangram
