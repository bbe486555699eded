#include "server/compression_metrics.h"

#include <algorithm>
#include <utility>

#include "server/metric_family.h"

namespace tangram::server {
namespace {

using prometheus::MetricFamily;
using prometheus::MetricType;

// The states add up to the pool: what is reserved is counted neither as free nor as cached.
MetricFamily Pages(const EngineStats& stats, const Labels& common) {
  const int64_t free = stats.pages_total - stats.pages_held - stats.pages_cached;
  const int64_t of_free = std::min(stats.pages_reserved, free);
  const int64_t of_cached = stats.pages_reserved - of_free;
  Family pages(MetricType::Gauge, "tangram:kv_pages",
               "Pages of the pool: held by requests, reserved for prompts in work, kept by the "
               "prefix cache, free.",
               common);
  for (const auto& [state, count] :
       std::vector<std::pair<std::string, int64_t>>{{"used", stats.pages_held},
                                                    {"reserved", stats.pages_reserved},
                                                    {"cached", stats.pages_cached - of_cached},
                                                    {"free", free - of_free}}) {
    pages.Add(static_cast<double>(count), {{"state", state}});
  }
  return pages.Take();
}

}  // namespace

std::vector<MetricFamily> CompressionMetrics(const EngineStats& stats, const EngineInfo& info,
                                             const std::string& model_name) {
  const Labels common = {{"model_name", model_name}, {"engine", "0"}};
  const auto gauge = [&](const char* name, const char* help, double value) {
    return Family(MetricType::Gauge, name, help, common).Add(value).Take();
  };
  const double resident = static_cast<double>(stats.resident_tokens);
  std::vector<MetricFamily> families = {
      Pages(stats, common),
      gauge("tangram:kv_logical_tokens", "Tokens that running requests have processed.",
            static_cast<double>(stats.logical_tokens)),
      gauge("tangram:kv_resident_tokens", "Of those, what the KV cache holds (mean over rows).",
            resident),
      gauge("tangram:row_length_imbalance",
            "Longest row over the mean row, of the running requests; 1: all are alike.",
            resident > 0 ? static_cast<double>(stats.longest_tokens) / resident : 1),
      Family(MetricType::Counter, "tangram:kv_pages_reclaimed_total",
             "Pages that compression gave back.", common)
          .Add(static_cast<double>(stats.pages_reclaimed))
          .Take(),
      Family(MetricType::Counter, "tangram:admission_blocked_total",
             "Steps in which the first of the queue was not admitted, for want of pages, of a slot "
             "(max-num-seqs) or of the step's tokens.",
             common)
          .Add(static_cast<double>(stats.blocked_by_pages), {{"reason", "pages"}})
          .Add(static_cast<double>(stats.blocked_by_slots), {{"reason", "slots"}})
          .Add(static_cast<double>(stats.blocked_by_tokens), {{"reason", "tokens"}})
          .Take(),
      gauge("tangram:sessions",
            "Conversations (or other prompts with their answers) that the prefix cache keeps, each "
            "to an end of its own.",
            static_cast<double>(stats.sessions)),
      Family(MetricType::Counter, "tangram:session_evictions_total",
             "Of those, the ones that made room for others, or were cleared.", common)
          .Add(static_cast<double>(stats.sessions_evicted), {{"reason", "pages"}})
          .Add(static_cast<double>(stats.sessions_cleared), {{"reason", "cleared"}})
          .Take()};
  if (!info.compression.enabled()) return families;
  families.push_back(Family(MetricType::Counter, "tangram:compression_runs_total",
                            "Boundaries at which a request was compressed.", common)
                         .Add(static_cast<double>(stats.compression_runs),
                              {{"scorer", info.scorer}, {"level", info.level}})
                         .Take());
  families.push_back(Family(MetricType::Histogram, "tangram:compression_seconds",
                            "Time of a step that went into scoring, selecting and compacting.",
                            common)
                         .Add(stats.compression_seconds)
                         .Take());
  return families;
}

}  // namespace tangram::server
