#include "bench/serving_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "base/numbers.h"
#include "bench/statistics.h"

namespace tangram::apps::bench {
namespace {

using nlohmann::json;
using Samples = std::map<std::string, std::vector<double>>;  // by metric, ms

// How many events fall into the fullest second, counted from `start`.
double PeakPerSecond(const std::vector<double>& times, double start) {
  std::map<int64_t, int> seconds;
  int peak = 0;
  for (const double time : times) {
    peak = std::max(peak, ++seconds[static_cast<int64_t>(std::floor(time - start))]);
  }
  return peak;
}

// Most requests that were under way in one second, as vLLM counts them.
int PeakConcurrency(const std::vector<const RequestRecord*>& good, double start) {
  std::map<int64_t, int> seconds;
  int peak = 0;
  for (const RequestRecord* record : good) {
    const double begin = record->start_seconds - start;
    const double end = begin + record->answer->last_chunk_seconds;
    for (auto second = static_cast<int64_t>(begin); second <= static_cast<int64_t>(end); ++second) {
      peak = std::max(peak, ++seconds[second]);
    }
  }
  return peak;
}

Samples Collect(const std::vector<const RequestRecord*>& good) {
  Samples samples;
  for (const RequestRecord* record : good) {
    const client::StreamedAnswer& answer = *record->answer;
    samples["ttft"].push_back(answer.first_chunk_seconds * 1000);
    samples["e2el"].push_back(answer.last_chunk_seconds * 1000);
    if (const auto tpot = TimePerOutputToken(answer)) samples["tpot"].push_back(*tpot * 1000);
    for (const double gap : answer.chunk_gaps) samples["itl"].push_back(gap * 1000);
  }
  return samples;
}

bool IsGood(const client::StreamedAnswer& answer, const Goodput& bounds) {
  const auto within = [](const std::optional<double>& bound, double seconds) {
    return !bound || seconds * 1000 <= *bound;
  };
  return within(bounds.ttft, answer.first_chunk_seconds) &&
         within(bounds.tpot, TimePerOutputToken(answer).value_or(0)) &&
         within(bounds.e2el, answer.last_chunk_seconds);
}

void AddStatistics(json& result, const std::string& metric, const std::vector<double>& values,
                   const std::vector<double>& percentiles) {
  result[fmt::format("mean_{}_ms", metric)] = Mean(values);
  result[fmt::format("median_{}_ms", metric)] = Percentile(values, 50);
  result[fmt::format("std_{}_ms", metric)] = StandardDeviation(values);
  for (const double percent : percentiles) {
    result[fmt::format("p{}_{}_ms", PercentText(percent), metric)] = Percentile(values, percent);
  }
}

std::string Line(std::string_view label, const json& value) {
  const std::string text = value.is_number_float() ? fmt::format("{:.2f}", value.get<double>())
                           : value.is_string()     ? value.get<std::string>()
                                                   : value.dump();
  return fmt::format("{:<40} {:<10}\n", label, text);
}

struct MetricTitle {
  const char *metric, *name, *title;
};
constexpr MetricTitle kTitles[] = {
    {"ttft", "TTFT", "Time to First Token"},
    {"tpot", "TPOT", "Time per Output Token (excl. 1st token)"},
    {"itl", "ITL", "Inter-token Latency"},
    {"e2el", "E2EL", "End-to-end Latency"},
};

}  // namespace

Result<Goodput> ParseGoodput(const std::vector<std::string>& texts) {
  Goodput goodput;
  for (const std::string& text : texts) {
    const size_t colon = std::min(text.find(':'), text.size());
    const std::string metric = text.substr(0, colon);
    const auto bound = ParseNumber(std::string_view(text).substr(std::min(colon + 1, text.size())));
    std::optional<double>* field = metric == "ttft"   ? &goodput.ttft
                                   : metric == "tpot" ? &goodput.tpot
                                   : metric == "e2el" ? &goodput.e2el
                                                      : nullptr;
    if (field == nullptr || !bound || *bound < 0) {
      return MakeError(ErrorKind::kInvalidArgument,
                       fmt::format("'{}' is not ttft:MS, tpot:MS or e2el:MS", text), "goodput");
    }
    *field = *bound;
  }
  return goodput;
}

std::optional<double> TimePerOutputToken(const client::StreamedAnswer& answer) {
  if (answer.output_tokens < 2) return std::nullopt;
  return (answer.last_chunk_seconds - answer.first_chunk_seconds) / (answer.output_tokens - 1);
}

json SummarizeServing(const std::vector<RequestRecord>& records, double duration,
                      const ReportConfig& config) {
  std::vector<const RequestRecord*> good;
  for (const RequestRecord& record : records) {
    if (record.answer) good.push_back(&record);
  }
  double start = good.empty() ? 0 : good[0]->start_seconds;
  int64_t input = 0, output = 0, cached = 0;
  int num_within_bounds = 0;
  std::vector<double> chunk_times;
  for (const RequestRecord* record : good) {
    const client::StreamedAnswer& answer = *record->answer;
    start = std::min(start, record->start_seconds);
    input += answer.prompt_tokens > 0 ? answer.prompt_tokens : record->prompt_len;
    output += answer.output_tokens;
    cached += answer.cached_tokens;
    num_within_bounds += IsGood(answer, config.goodput) ? 1 : 0;
    chunk_times.insert(chunk_times.end(), answer.chunk_times.begin(), answer.chunk_times.end());
  }
  const bool bounded = config.goodput.ttft || config.goodput.tpot || config.goodput.e2el;
  json result = {{"duration", duration},
                 {"completed", good.size()},
                 {"failed", records.size() - good.size()},
                 {"total_input_tokens", input},
                 {"total_output_tokens", output},
                 {"total_cached_tokens", cached},
                 {"request_throughput", static_cast<double>(good.size()) / duration},
                 {"request_goodput", bounded ? json(num_within_bounds / duration) : json()},
                 {"output_throughput", static_cast<double>(output) / duration},
                 {"total_token_throughput", static_cast<double>(input + output) / duration},
                 {"max_output_tokens_per_s", PeakPerSecond(chunk_times, start)},
                 {"max_concurrent_requests", PeakConcurrency(good, start)}};
  Samples samples = Collect(good);
  for (const MetricTitle& title : kTitles) {
    AddStatistics(result, title.metric, samples[title.metric], config.percentiles);
  }
  return result;
}

std::string FormatServing(const json& result, const ReportConfig& config) {
  std::string text = fmt::format("{:=^50}\n", " Serving Benchmark Result ");
  text += Line("Successful requests:", result["completed"]);
  text += Line("Failed requests:", result["failed"]);
  text += Line("Benchmark duration (s):", result["duration"]);
  text += Line("Total input tokens:", result["total_input_tokens"]);
  text += Line("Total cached tokens:", result["total_cached_tokens"]);
  text += Line("Total generated tokens:", result["total_output_tokens"]);
  text += Line("Request throughput (req/s):", result["request_throughput"]);
  if (!result["request_goodput"].is_null()) {
    text += Line("Request goodput (req/s):", result["request_goodput"]);
  }
  text += Line("Output token throughput (tok/s):", result["output_throughput"]);
  text += Line("Peak output token throughput (tok/s):", result["max_output_tokens_per_s"]);
  text += Line("Peak concurrent requests:", result["max_concurrent_requests"]);
  text += Line("Total Token throughput (tok/s):", result["total_token_throughput"]);
  for (const MetricTitle& title : kTitles) {
    const auto& shown = config.metrics;
    if (std::find(shown.begin(), shown.end(), title.metric) == shown.end()) continue;
    text += fmt::format("{:-^50}\n", title.title);
    const auto line = [&](const std::string& label, const std::string& key) {
      text += Line(fmt::format("{} {} (ms):", label, title.name),
                   result[fmt::format("{}_{}_ms", key, title.metric)]);
    };
    line("Mean", "mean");
    line("Median", "median");
    for (const double percent : config.percentiles) {
      line("P" + PercentText(percent), "p" + PercentText(percent));
    }
  }
  return text + std::string(50, '=') + "\n";
}

}  // namespace tangram::apps::bench
