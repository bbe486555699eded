#include "server/stats_logger.h"

#include <algorithm>

namespace tangram::server {

std::string StatsLogger::Line(const EngineStats& stats, uint64_t rejected, Clock::time_point now,
                              bool* idle) {
  const double seconds = std::max(1e-3, std::chrono::duration<double>(now - last_time_).count());
  const auto prompt = static_cast<double>(stats.prompt_tokens - last_.prompt_tokens);
  const auto generated = static_cast<double>(stats.generation_tokens - last_.generation_tokens);
  const auto percent = [](auto part, auto whole) {
    return whole ? 100.0 * static_cast<double>(part) / static_cast<double>(whole) : 0.0;
  };
  *idle = prompt == 0 && generated == 0 && stats.num_running == 0 && stats.num_waiting == 0;
  last_ = stats;
  last_time_ = now;
  return fmt::format(
      "Engine 000: Avg prompt throughput: {:.1f} tokens/s, Avg generation throughput: {:.1f} "
      "tokens/s, Running: {} reqs, Waiting: {} reqs, GPU KV cache usage: {:.1f}%, Prefix cache hit "
      "rate: {:.1f}%, KV resident/logical: {}/{} tokens, rejected: {}",
      prompt / seconds, generated / seconds, stats.num_running, stats.num_waiting,
      percent(stats.pages_held, stats.pages_total),
      percent(stats.prefix_cache_hits, stats.prefix_cache_queries), stats.resident_tokens,
      stats.logical_tokens, rejected);
}

}  // namespace tangram::server
