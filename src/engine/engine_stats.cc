#include "engine/engine_stats.h"

namespace tangram {

void EngineStats::Take(const SchedulerStats& s) {
  num_running = s.num_running;
  num_waiting = s.num_waiting;
  pages_total = s.pages_total;
  pages_held = s.pages_held;
  pages_cached = s.pages_cached;
  pages_reserved = s.pages_reserved;
  logical_tokens = s.logical_tokens;
  resident_tokens = s.resident_tokens;
  longest_tokens = s.longest_tokens;
  compression_runs = s.compression_runs;
  pages_reclaimed = s.pages_reclaimed;
  blocked_by_pages = s.blocked.pages;
  blocked_by_slots = s.blocked.slots;
  blocked_by_tokens = s.blocked.tokens;
  num_preemptions = s.num_preemptions;
  prefix_cache_queries = s.prefix_cache_queries;
  prefix_cache_hits = s.prefix_cache_hits;
  sessions = s.cached_ends;
  sessions_evicted = s.cached_ends_evicted;
  sessions_cleared = s.cached_ends_cleared;
}

}  // namespace tangram
