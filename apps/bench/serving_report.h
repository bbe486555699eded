#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "client/openai_client.h"

namespace tangram::apps::bench {

// One request of a serving measurement.
struct RequestRecord {
  Result<client::StreamedAnswer> answer;
  int prompt_len = 0;        // tokens, if the server does not say
  double start_seconds = 0;  // of the steady clock
};

// Bounds of a good request, ms; all that are given must hold.
struct Goodput {
  std::optional<double> ttft, tpot, e2el;
};

// "ttft:500" "tpot:50" "e2el:2000". kInvalidArgument for anything else.
Result<Goodput> ParseGoodput(const std::vector<std::string>& texts);

struct ReportConfig {
  std::vector<std::string> metrics = {"ttft", "tpot", "itl"};  // of ttft, tpot, itl, e2el
  std::vector<double> percentiles = {99};
  Goodput goodput;
};

// Seconds from token to token after the first chunk; nothing for answers of one token.
std::optional<double> TimePerOutputToken(const client::StreamedAnswer& answer);

// The result under vLLM's keys, `duration` in seconds. Times in it are ms.
nlohmann::json SummarizeServing(const std::vector<RequestRecord>& records, double duration,
                                const ReportConfig& config);

// The result as vLLM prints it.
std::string FormatServing(const nlohmann::json& result, const ReportConfig& config);

}  // namespace tangram::apps::bench
