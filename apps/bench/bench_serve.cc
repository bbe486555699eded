// tangram bench serve: many requests against a server, as `vllm bench serve`.

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <ctime>
#include <fstream>
#include <limits>
#include <random>
#include <thread>

#include "base/numbers.h"
#include "bench/bench_commands.h"
#include "bench/dataset.h"
#include "bench/progress.h"
#include "bench/serving_report.h"
#include "client/openai_client.h"
#include "exit_codes.h"
#include "text_model.h"

namespace tangram::apps::bench {
namespace {

using nlohmann::json;

struct BenchServeConfig {
  std::string backend = "openai", url = "http://127.0.0.1:8000", endpoint, model, tokenizer;
  std::string api_key, extra_body = "{}", request_rate = "inf", result_file;
  DatasetConfig dataset;
  double burstiness = 1, temperature = 0;
  int max_concurrency = 0, num_warmups = 0;
  int ready_timeout = 600;
  bool ignore_eos = true, save_detailed = false;
  std::vector<std::string> metrics = {"ttft", "tpot", "itl"}, percentiles = {"99"}, goodput;
};

void Declare(Options& options, BenchServeConfig& config) {
  options.Group("Server");
  options.Add("backend", &config.backend, "openai: completions; openai-chat: chat")
      .OneOf({"openai", "openai-chat", "vllm"});
  options.Add("url", &config.url, "URL of the server").Alias("--base-url").Positional();
  options.Add("endpoint", &config.endpoint, "request path; empty: the backend's");
  options.Add("model", &config.model, "name of the model in requests; empty: the server's first");
  options.Add("tokenizer", &config.tokenizer, "GGUF file or folder whose tokenizer makes prompts");
  options.Add("api-key", &config.api_key, "API key of the server")
      .Secret()
      .Variable("OPENAI_API_KEY");
  options.Add("ready-check-timeout-sec", &config.ready_timeout,
              "longest time to wait for the server");
  DeclareDataset(options, config.dataset, true);
  options.Group("Load");
  options.Add("request-rate", &config.request_rate, "requests a second; inf: all at once");
  options.Add("burstiness", &config.burstiness, "shape of the gamma arrivals; 1: Poisson");
  options.Add("max-concurrency", &config.max_concurrency, "most requests at once; 0: no limit");
  options.Add("num-warmups", &config.num_warmups, "requests that are not counted");
  options.Add("seed", &config.dataset.seed, "random seed for prompts and arrivals");
  options.Add("ignore-eos", &config.ignore_eos, "generate answers of the full length");
  options.Add("temperature", &config.temperature, "sampling temperature");
  options.Add("extra-body", &config.extra_body, "JSON object of further request fields");
  options.Group("Report");
  options.Add("percentile-metrics", &config.metrics, "metrics to show, of ttft, tpot, itl, e2el")
      .Commas();
  options.Add("metric-percentiles", &config.percentiles, "percentiles to show of each metric")
      .Commas();
  options.Add("goodput", &config.goodput,
              "limits in ms that a good request keeps: ttft:500 tpot:50 e2el:9000");
  options.Add("result-filename", &config.result_file, "JSON file to write");
  options.Add("save-detailed", &config.save_detailed, "write every request into the result file");
}

Result<ReportConfig> MakeReportConfig(const BenchServeConfig& config) {
  ReportConfig report;
  report.metrics = config.metrics;
  report.percentiles.clear();
  for (const std::string& text : config.percentiles) {
    TANGRAM_ASSIGN_OR_RETURN(const double percent, ParseNumber(text));
    if (percent < 0 || percent > 100) {
      return MakeError(ErrorKind::kInvalidArgument,
                       "--metric-percentiles: a percentile must be from 0 to 100",
                       "metric_percentiles");
    }
    report.percentiles.push_back(percent);
  }
  TANGRAM_ASSIGN_OR_RETURN(report.goodput, ParseGoodput(config.goodput));
  return report;
}

// Seconds after the start at which each request is sent: gamma gaps, stretched so that the last
// one comes when the rate says.
std::vector<double> Arrivals(const BenchServeConfig& config, size_t count, double rate) {
  std::vector<double> arrivals(count, 0.0);
  if (std::isinf(rate)) return arrivals;
  std::mt19937_64 random(config.dataset.seed);
  std::gamma_distribution<double> gap(config.burstiness, 1 / (rate * config.burstiness));
  double at = 0;
  for (double& arrival : arrivals) arrival = at += gap(random);
  for (double& arrival : arrivals) arrival *= static_cast<double>(count) / rate / at;
  return arrivals;
}

class Runner {
 public:
  Runner(const BenchServeConfig& config, client::Url url, json extra)
      : config_(config), url_(std::move(url)), extra_(std::move(extra)) {
    path_ = !config.endpoint.empty()          ? config.endpoint
            : config.backend == "openai-chat" ? "/v1/chat/completions"
                                              : "/v1/completions";
  }

  // Waits for the server, finds the model's name, and sends the first prompt once.
  Status Prepare(const BenchPrompt& first) {
    client::OpenAiClient client(url_, config_.api_key);
    TANGRAM_RETURN_IF_ERROR(client.WaitUntilReady(config_.ready_timeout));
    model_ = config_.model;
    if (model_.empty()) {
      TANGRAM_ASSIGN_OR_RETURN(model_, client.FirstModel());
    }
    const RequestRecord record = Send(client, first);
    if (!record.answer) return tl::unexpected(record.answer.error());
    return {};
  }

  // Sends all prompts at their times; the records are in their order.
  std::vector<RequestRecord> Run(const std::vector<BenchPrompt>& prompts,
                                 const std::vector<double>& arrivals, const std::string& what) {
    std::vector<RequestRecord> records(prompts.size(),
                                       {MakeError(ErrorKind::kInternal, "not sent"), 0, 0});
    Progress progress(what, static_cast<int>(prompts.size()));
    std::atomic<size_t> next = 0;
    const double start = client::SteadySeconds();
    const auto work = [&] {
      client::OpenAiClient client(url_, config_.api_key);
      for (size_t i; (i = next++) < prompts.size(); progress.Add()) {
        const double wait = start + arrivals[i] - client::SteadySeconds();
        if (wait > 0) std::this_thread::sleep_for(std::chrono::duration<double>(wait));
        records[i] = Send(client, prompts[i]);
      }
    };
    const size_t wanted = config_.max_concurrency > 0 ? config_.max_concurrency : prompts.size();
    std::vector<std::thread> threads;
    for (size_t i = 0; i < std::min(wanted, prompts.size()); ++i) threads.emplace_back(work);
    for (std::thread& thread : threads) thread.join();
    return records;
  }

  const std::string& model() const { return model_; }

 private:
  RequestRecord Send(client::OpenAiClient& client, const BenchPrompt& prompt) const {
    json body = {
        {"model", model_}, {"max_tokens", prompt.output_len}, {"temperature", config_.temperature}};
    if (config_.ignore_eos) body["ignore_eos"] = true;
    if (config_.backend == "openai-chat") {
      body["messages"] = json::array({{{"role", "user"}, {"content", prompt.text}}});
    } else {
      body["prompt"] = prompt.text;
    }
    body.update(extra_);
    const double start = client::SteadySeconds();
    return {client.Stream(path_, std::move(body)), static_cast<int>(prompt.tokens.size()), start};
  }

  const BenchServeConfig& config_;
  client::Url url_;
  json extra_;
  std::string path_, model_;
};

std::string Now() {
  char text[32];
  const std::time_t now = std::time(nullptr);
  std::strftime(text, sizeof text, "%Y%m%d-%H%M%S", std::localtime(&now));
  return text;
}

void AddDetails(json& result, const std::vector<RequestRecord>& records) {
  for (const RequestRecord& record : records) {
    const bool good = record.answer.has_value();
    result["start_times"].push_back(record.start_seconds);
    result["input_lens"].push_back(record.prompt_len);
    result["output_lens"].push_back(good ? record.answer->output_tokens : 0);
    result["ttfts"].push_back(good ? record.answer->first_chunk_seconds : 0);
    result["itls"].push_back(good ? record.answer->chunk_gaps : std::vector<double>());
    result["generated_texts"].push_back(good ? record.answer->text : "");
    result["errors"].push_back(good ? "" : record.answer.error().message);
  }
}

Status RunAndReport(const BenchServeConfig& config) {
  TANGRAM_ASSIGN_OR_RETURN(const ReportConfig report, MakeReportConfig(config));
  TANGRAM_ASSIGN_OR_RETURN(const client::Url url, client::ParseUrl(config.url));
  const double rate = config.request_rate == "inf" ? std::numeric_limits<double>::infinity()
                                                   : ParseNumber(config.request_rate).value_or(0);
  const json extra = json::parse(config.extra_body, nullptr, false);
  if (rate <= 0 || config.burstiness <= 0 || !extra.is_object()) {
    return MakeError(ErrorKind::kInvalidArgument,
                     "--request-rate and --burstiness are above 0, --extra-body is a JSON object");
  }
  TANGRAM_ASSIGN_OR_RETURN(const auto tokenizer, LoadTokenizer(config.tokenizer));
  TANGRAM_ASSIGN_OR_RETURN(const auto prompts,
                           MakePrompts(config.dataset, tokenizer.get(), tokenizer->vocab_size()));
  Runner runner(config, url, extra);
  TANGRAM_RETURN_IF_ERROR(runner.Prepare(prompts[0]));
  if (config.num_warmups > 0) {
    const std::vector<BenchPrompt> warmups(config.num_warmups, prompts[0]);
    runner.Run(warmups, std::vector<double>(warmups.size()), "Warm-up");
  }
  const double start = client::SteadySeconds();
  const auto records = runner.Run(prompts, Arrivals(config, prompts.size(), rate), "Requests");
  json result = SummarizeServing(records, client::SteadySeconds() - start, report);
  fmt::print("{}", FormatServing(result, report));

  result.update(
      {{"date", Now()},
       {"backend", config.backend},
       {"model_id", runner.model()},
       {"tokenizer_id", config.tokenizer},
       {"num_prompts", prompts.size()},
       {"request_rate", std::isinf(rate) ? json("inf") : json(rate)},
       {"burstiness", config.burstiness},
       {"max_concurrency", config.max_concurrency > 0 ? json(config.max_concurrency) : json()}});
  if (config.save_detailed) AddDetails(result, records);
  if (!config.result_file.empty()) std::ofstream(config.result_file) << result.dump(2) << "\n";
  for (const RequestRecord& record : records) {
    if (!record.answer) return tl::unexpected(record.answer.error());
  }
  return {};
}

}  // namespace

int RunBenchServe(Args args) {
  BenchServeConfig config;
  Options options("tangram bench serve [URL] --tokenizer MODEL [flags]",
                  "Sends many requests to a server of the OpenAI API and measures the answers.\n"
                  "TTFT is the time to the first chunk with choices, TPOT (latency - TTFT) / "
                  "(tokens - 1),\nITL the gaps between chunks of all requests.");
  Declare(options, config);
  if (const auto code = ParseOrExit(options, std::move(args))) return *code;
  if (config.tokenizer.empty()) {
    return Fail({ErrorKind::kInvalidArgument,
                 "--tokenizer is needed: a GGUF file or a folder with tokenizer.json",
                 "tokenizer"});
  }
  const Status status = RunAndReport(config);
  return status ? kExitOk : Fail(status.error());
}

}  // namespace tangram::apps::bench
