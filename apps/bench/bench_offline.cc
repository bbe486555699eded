// tangram bench throughput and latency: the engine in this process, as `vllm bench`.

#include <fmt/format.h>

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/log.h"
#include "bench/bench_commands.h"
#include "bench/dataset.h"
#include "bench/offline_run.h"
#include "bench/progress.h"
#include "bench/statistics.h"
#include "calibration/text_calibration.h"
#include "engine_options.h"
#include "exit_codes.h"
#include "text_model.h"

namespace tangram::apps::bench {
namespace {

using nlohmann::json;

struct OfflineConfig {
  EngineConfig engine;
  TextConfig text;
  DatasetConfig dataset;
  std::string output_json;
  int batch_size = 8, num_warmups = 10, num_iterations = 30;
};

void Save(const std::string& path, const json& result) {
  if (!path.empty()) std::ofstream(path) << result.dump(2) << "\n";
}

Result<std::unique_ptr<Engine>> Load(OfflineConfig& config, size_t num_requests) {
  SetLogLevel(LogLevel::kWarning);
  config.engine.max_queued_requests =
      std::max(config.engine.max_queued_requests, static_cast<int>(num_requests));
  return LoadEngine(config.engine, config.text);
}

Status Throughput(OfflineConfig& config) {
  TANGRAM_ASSIGN_OR_RETURN(const auto engine, Load(config, config.dataset.num_prompts));
  std::shared_ptr<const Tokenizer> tokenizer;
  if (config.dataset.name != "random") {
    const auto& path = config.text.tokenizer;
    TANGRAM_ASSIGN_OR_RETURN(tokenizer,
                             LoadTokenizer(path.empty() ? config.engine.model_path : path));
  }
  TANGRAM_ASSIGN_OR_RETURN(const auto prompts,
                           MakePrompts(config.dataset, tokenizer.get(), engine->info().vocab_size));
  Progress progress("Requests", static_cast<int>(prompts.size()));
  TANGRAM_ASSIGN_OR_RETURN(const OfflineResult run,
                           RunOffline(*engine, prompts, [&] { progress.Add(); }));
  int64_t input = 0, output = 0;
  for (size_t i = 0; i < prompts.size(); ++i) {
    input += static_cast<int64_t>(prompts[i].tokens.size());
    output += static_cast<int64_t>(run.token_times[i].size());
  }
  const double seconds = run.end - run.start;
  const double count = static_cast<double>(prompts.size());
  const double total = static_cast<double>(input + output);
  fmt::print("Throughput: {:.2f} requests/s, {:.2f} total tokens/s, {:.2f} output tokens/s\n",
             count / seconds, total / seconds, static_cast<double>(output) / seconds);
  const EngineStats stats = engine->Stats();
  Save(config.output_json, {{"elapsed_time", seconds},
                            {"num_requests", prompts.size()},
                            {"total_num_tokens", input + output},
                            {"requests_per_second", count / seconds},
                            {"tokens_per_second", total / seconds},
                            {"output_tokens_per_second", static_cast<double>(output) / seconds},
                            {"num_steps", stats.num_steps},
                            {"schedule_seconds", stats.schedule_seconds},
                            {"forward_seconds", stats.forward_seconds},
                            {"sample_seconds", stats.sample_seconds}});
  return {};
}

// When every sequence has its first token, and the first one has its last.
std::pair<double, double> DecodingTime(const OfflineResult& run) {
  double begin = run.start, end = run.end;
  for (const auto& times : run.token_times) {
    begin = std::max(begin, times.front());
    end = std::min(end, times.back());
  }
  return {begin, end};
}

// Prompt tokens a second until all prompts are in.
double PrefillSpeed(const OfflineResult& run, const std::vector<BenchPrompt>& prompts) {
  size_t tokens = 0;
  for (const BenchPrompt& prompt : prompts) tokens += prompt.tokens.size();
  return static_cast<double>(tokens) / (DecodingTime(run).first - run.start);
}

// Tokens a second while all sequences decode and none prefills; 0 if there is no such time.
double DecodeSpeed(const OfflineResult& run) {
  const auto [begin, end] = DecodingTime(run);
  int64_t tokens = 0;
  for (const auto& times : run.token_times) {
    tokens += std::upper_bound(times.begin(), times.end(), end) -
              std::upper_bound(times.begin(), times.end(), begin);
  }
  return end > begin ? static_cast<double>(tokens) / (end - begin) : 0;
}

Status Latency(OfflineConfig& config) {
  config.engine.enable_prefix_caching = false;
  config.dataset.num_prompts = config.batch_size;
  config.engine.max_num_seqs = std::max(config.engine.max_num_seqs, config.batch_size);
  TANGRAM_ASSIGN_OR_RETURN(const auto engine, Load(config, config.batch_size));
  TANGRAM_ASSIGN_OR_RETURN(const auto prompts,
                           MakePrompts(config.dataset, nullptr, engine->info().vocab_size));
  std::vector<double> latencies, prefill, decode;
  Progress progress("Iterations", config.num_warmups + config.num_iterations);
  for (int i = 0; i < config.num_warmups + config.num_iterations; ++i) {
    TANGRAM_ASSIGN_OR_RETURN(const OfflineResult run, RunOffline(*engine, prompts));
    progress.Add();
    if (i < config.num_warmups) continue;
    latencies.push_back(run.end - run.start);
    prefill.push_back(PrefillSpeed(run, prompts));
    decode.push_back(DecodeSpeed(run));
  }
  fmt::print("Avg latency: {:.6f} seconds\n", Mean(latencies));
  json percentiles;
  for (const int percent : {10, 25, 50, 75, 90, 99}) {
    percentiles[std::to_string(percent)] = Percentile(latencies, percent);
    fmt::print("{}% percentile latency: {:.6f} seconds\n", percent, Percentile(latencies, percent));
  }
  fmt::print("Prefill: {:.1f} tokens/s, decode: {:.1f} tokens/s (medians)\n",
             Percentile(prefill, 50), Percentile(decode, 50));
  Save(config.output_json, {{"avg_latency", Mean(latencies)},
                            {"latencies", latencies},
                            {"percentiles", percentiles},
                            {"prefill_tokens_per_second", prefill},
                            {"decode_tokens_per_second", decode}});
  return {};
}

int Run(OfflineConfig& config, Options& options, Args args, Status (*measure)(OfflineConfig&)) {
  options.Add("output-json", &config.output_json, "file to write the result to");
  if (const auto code = ParseOrExit(options, std::move(args))) return *code;
  if (config.engine.model_path.empty()) {
    return Fail(
        {ErrorKind::kInvalidArgument, "name a model: tangram bench throughput MODEL", "model"});
  }
  const Status status = measure(config);
  return status ? kExitOk : Fail(status.error());
}

}  // namespace

int RunBenchThroughput(Args args) {
  OfflineConfig config;
  Options options("tangram bench throughput MODEL [flags]",
                  "Runs many requests on the engine in this process.");
  DeclareModelOptions(options, config.engine, config.text);
  DeclareDataset(options, config.dataset, true);
  return Run(config, options, std::move(args), Throughput);
}

int RunBenchLatency(Args args) {
  OfflineConfig config;
  config.dataset.input_len = 32;
  Options options("tangram bench latency MODEL [flags]",
                  "Runs one batch of random prompts again and again, without prefix caching.");
  DeclareModelOptions(options, config.engine, config.text);
  options.Group("Batch");
  options.Add("input-len", &config.dataset.input_len, "tokens per prompt");
  options.Add("output-len", &config.dataset.output_len, "tokens per answer");
  options.Add("batch-size", &config.batch_size, "requests at once");
  options.Add("num-iters-warmup", &config.num_warmups, "runs before those that are measured");
  options.Add("num-iters", &config.num_iterations, "runs that are measured");
  return Run(config, options, std::move(args), Latency);
}

}  // namespace tangram::apps::bench
