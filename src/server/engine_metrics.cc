#include "server/engine_metrics.h"

#include <fmt/format.h>
#include <sys/resource.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string_view>

#include "server/metric_family.h"

namespace tangram::server {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;

ClientMetric Sample(MetricType type, double value, Labels labels) {
  ClientMetric metric;
  metric.label = std::move(labels);
  (type == MetricType::Counter ? metric.counter.value : metric.gauge.value) = value;
  return metric;
}

// Collects families of one sample each, all with the same labels.
struct FamilyList {
  Labels labels;
  std::vector<MetricFamily> families;

  MetricFamily& Add(MetricType type, const std::string& name, const std::string& help) {
    MetricFamily& family = families.emplace_back();
    family.name = name;
    family.help = help;
    family.type = type;
    return family;
  }
  void Gauge(const std::string& name, const std::string& help, double value) {
    Add(MetricType::Gauge, name, help).metric.push_back(Sample(MetricType::Gauge, value, labels));
  }
  void Counter(const std::string& name, const std::string& help, double value) {
    Add(MetricType::Counter, name, help)
        .metric.push_back(Sample(MetricType::Counter, value, labels));
  }
};

void AddCacheConfig(const EngineInfo& info, FamilyList* list) {
  Labels labels = list->labels;
  for (const auto& [name, value] : std::vector<std::pair<std::string, std::string>>{
           {"block_size", std::to_string(info.page_size)},
           {"cache_dtype", info.kv_cache_dtype},
           {"num_gpu_blocks", std::to_string(info.num_rows ? info.num_pages / info.num_rows : 0)},
           {"page_group_size", std::to_string(info.page_group_size)},
           {"num_rows", std::to_string(info.num_rows)},
           {"num_pages", std::to_string(info.num_pages)},
           {"capacity_tokens", std::to_string(info.capacity_tokens)},
           {"compression_ratio", fmt::format("{:.2f}", info.compression.ratio)},
           {"compression_scorer", info.compression.enabled() ? info.scorer : "none"},
           {"compression_level", info.compression.enabled() ? info.level : "none"},
           {"compression_chunk_size", std::to_string(info.compression.chunk)}}) {
    labels.push_back({name, value});
  }
  list->Add(MetricType::Gauge, "vllm:cache_config_info", "Settings of the KV cache, as labels.")
      .metric.push_back(Sample(MetricType::Gauge, 1, labels));
}

// Of features that are not served, but on every dashboard: zeros there instead of "no data".
void AddUnserved(FamilyList* list) {
  for (const char* name :
       {"vllm:external_prefix_cache_queries_total", "vllm:external_prefix_cache_hits_total",
        "vllm:mm_cache_queries_total", "vllm:mm_cache_hits_total",
        "vllm:spec_decode_num_drafts_total", "vllm:spec_decode_num_draft_tokens_total",
        "vllm:spec_decode_num_accepted_tokens_total", "vllm:corrupted_requests_total"}) {
    list->Counter(name, "Of a feature that is not served.", 0);
  }
  const auto add = [&](MetricType type, const char* name, const char* help,
                       std::initializer_list<ClientMetric::Label> more) -> MetricFamily& {
    Labels labels = list->labels;
    labels.insert(labels.end(), more);
    MetricFamily& family = list->Add(type, name, help);
    family.metric.push_back(Sample(type, 0, std::move(labels)));
    return family;
  };
  add(MetricType::Counter, "vllm:spec_decode_num_accepted_tokens_per_pos_total",
      "Of a feature that is not served.", {{"position", "0"}});
  add(MetricType::Gauge, "vllm:lora_requests_info", "LoRA is not served.",
      {{"max_lora", "0"}, {"waiting_lora_adapters", ""}, {"running_lora_adapters", ""}});
  MetricFamily& states = add(MetricType::Gauge, "vllm:engine_sleep_state",
                             "The engine does not sleep.", {{"sleep_state", "weights_offloaded"}});
  for (const char* state : {"discard_all", "awake"}) {
    ClientMetric metric = states.metric.front();
    metric.label.back().value = state;
    metric.gauge.value = state == std::string_view("awake") ? 1 : 0;
    states.metric.push_back(std::move(metric));
  }
}

}  // namespace

std::vector<MetricFamily> EngineMetrics(const EngineStats& stats, const EngineInfo& info,
                                        const std::string& model_name) {
  FamilyList list{.labels = {{"model_name", model_name}, {"engine", "0"}}};
  const double usage = stats.pages_total ? static_cast<double>(stats.pages_held) /
                                               static_cast<double>(stats.pages_total)
                                         : 0;
  list.Gauge("vllm:num_requests_running", "Requests in execution.", stats.num_running);
  list.Gauge("vllm:num_requests_waiting", "Requests waiting to be processed.", stats.num_waiting);
  list.Gauge("vllm:kv_cache_usage_perc", "Share of the KV pages held by requests; 1 is all.",
             usage);
  list.Gauge("vllm:gpu_cache_usage_perc", "Old name of vllm:kv_cache_usage_perc.", usage);
  AddCacheConfig(info, &list);
  AddUnserved(&list);
  list.families.push_back(Family(MetricType::Histogram, "vllm:iteration_tokens_total",
                                 "Tokens of a forward step.", list.labels)
                              .Add(stats.step_tokens)
                              .Take());
  const auto counter = [&](const char* name, const char* help, uint64_t value) {
    list.Counter(name, help, static_cast<double>(value));
  };
  counter("vllm:prompt_tokens_total", "Prompt tokens taken in.", stats.prompt_tokens);
  counter("vllm:generation_tokens_total", "Tokens generated.", stats.generation_tokens);
  counter("vllm:num_preemptions_total", "Requests put back to free pages.", stats.num_preemptions);
  counter("vllm:prefix_cache_queries_total", "Prompt tokens looked up in the prefix cache.",
          stats.prefix_cache_queries);
  counter("vllm:prefix_cache_hits_total", "Prompt tokens found in the prefix cache.",
          stats.prefix_cache_hits);
  counter("tangram:engine_steps_total", "Forward steps.", stats.num_steps);
  list.Counter("tangram:engine_schedule_seconds_total", "Time spent on scheduling.",
               stats.schedule_seconds);
  list.Counter("tangram:engine_forward_seconds_total", "Time spent in the model.",
               stats.forward_seconds);
  list.Counter("tangram:engine_sample_seconds_total", "Time spent on sampling.",
               stats.sample_seconds);
  return std::move(list.families);
}

std::vector<MetricFamily> ProcessMetrics() {
  FamilyList list;
  // Fields 14, 15, 22, 23 and 24 of proc(5); the name in field 2 may hold spaces and parentheses.
  std::ifstream file("/proc/self/stat");
  std::string line((std::istreambuf_iterator<char>(file)), {});
  std::vector<double> fields(24, 0);
  const size_t name_end = line.rfind(')');
  if (name_end != std::string::npos && line.size() > name_end + 4) {
    const char* at = line.c_str() + name_end + 4;  // after ") S "
    for (size_t i = 3; i < fields.size(); ++i) {
      char* end = nullptr;
      fields[i] = std::strtod(at, &end);
      at = end;
    }
  }
  const auto ticks = static_cast<double>(sysconf(_SC_CLK_TCK));
  const auto page = static_cast<double>(sysconf(_SC_PAGESIZE));
  std::ifstream stat("/proc/stat");
  double boot = 0;
  for (std::string word; stat >> word;) {
    if (word == "btime") stat >> boot;
  }
  std::error_code error;
  const auto fds = std::distance(std::filesystem::directory_iterator("/proc/self/fd", error), {});
  rlimit limit{};
  getrlimit(RLIMIT_NOFILE, &limit);
  list.Counter("process_cpu_seconds_total", "User and system CPU time.",
               (fields[13] + fields[14]) / ticks);
  list.Gauge("process_start_time_seconds", "Start, since the epoch.", boot + fields[21] / ticks);
  list.Gauge("process_virtual_memory_bytes", "Virtual memory.", fields[22]);
  list.Gauge("process_resident_memory_bytes", "Resident memory.", fields[23] * page);
  list.Gauge("process_open_fds", "Open file descriptors.", static_cast<double>(fds));
  list.Gauge("process_max_fds", "Limit of open file descriptors.",
             static_cast<double>(limit.rlim_cur));
  return std::move(list.families);
}

}  // namespace tangram::server
