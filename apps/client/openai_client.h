#pragma once

#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/result.h"
#include "client/http_client.h"

namespace tangram::apps::client {

// A streamed answer, with the times of its chunks as vLLM's benchmarks define them: a chunk counts
// if it has `choices`, be its text empty.
struct StreamedAnswer {
  std::string text;
  std::string finish_reason;
  double first_chunk_seconds = 0;   // TTFT: request sent to first chunk
  double last_chunk_seconds = 0;    // latency: request sent to last chunk
  std::vector<double> chunk_gaps;   // ITL, seconds: one less than there are chunks
  std::vector<double> chunk_times;  // of each chunk, seconds of the steady clock
  int num_chunks = 0;
  int prompt_tokens = 0, output_tokens = 0;  // of `usage`; chunks if the server sends none
  int cached_tokens = 0;                     // of the prompt, as the server says
  int logical_tokens = 0,
      resident_tokens = 0;  // usage.kv: processed, and of those held; 0: unknown
};

// Seconds of the steady clock.
double SteadySeconds();

// Talks to any server of the OpenAI API.
class OpenAiClient {
 public:
  OpenAiClient(Url url, std::string api_key) : http_(std::move(url), std::move(api_key)) {}

  // Told each new piece of text; false breaks the answer off.
  using OnText = std::function<bool(const std::string&)>;

  // Streams an answer from `path` ("/v1/chat/completions" or "/v1/completions"). `body` is the
  // request; stream and usage are added. Statuses other than 200 and error frames are errors in
  // the server's words.
  Result<StreamedAnswer> Stream(const std::string& path, nlohmann::json body,
                                const OnText& on_text = {});

  // The first model of /v1/models.
  Result<std::string> FirstModel();

  // Waits until /health answers 200, at most `seconds`; says so on stderr if it has to wait.
  Status WaitUntilReady(double seconds);

  HttpClient& http() { return http_; }

 private:
  HttpClient http_;
};

}  // namespace tangram::apps::client
