// tangram bench decode: the time of a decode step by batch and context, and of a prompt's prefill,
// on the engine in this process.

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <random>

#include "base/log.h"
#include "bench/bench_commands.h"
#include "bench/offline_run.h"
#include "bench/statistics.h"
#include "calibration/text_calibration.h"
#include "engine_options.h"
#include "exit_codes.h"

namespace tangram::apps::bench {
namespace {

using nlohmann::json;

struct DecodeConfig {
  EngineConfig engine;
  TextConfig text;
  std::vector<std::string> batches = {"1x128",   "1x2048",  "16x2048", "64x2048", "1x8192",
                                      "16x8192", "48x8192", "8x32000", "256x1024"};
  std::vector<std::string> prefills = {"2048", "8192", "32000"};
  int steps = 128;
};

std::vector<BenchPrompt> RandomPrompts(int batch, int context, int output_len, int vocab_size,
                                       uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<BenchPrompt> prompts(static_cast<size_t>(batch));
  for (BenchPrompt& prompt : prompts) {
    prompt.output_len = output_len;
    for (int i = 0; i < context; ++i) {
      prompt.tokens.push_back(static_cast<int32_t>(random() % static_cast<uint64_t>(vocab_size)));
    }
  }
  return prompts;
}

// Times of the steps in which all sequences decode.
std::vector<double> StepSeconds(const OfflineResult& run) {
  double begin = 0, end = run.end;
  for (const auto& times : run.token_times) {
    begin = std::max(begin, times.front());
    end = std::min(end, times.back());
  }
  const std::vector<double>& times = run.token_times.front();
  std::vector<double> steps;
  for (size_t i = 1; i < times.size(); ++i) {
    if (times[i - 1] > begin && times[i] <= end) steps.push_back(times[i] - times[i - 1]);
  }
  return steps;
}

// Prompts come from the prefix cache, which the first run fills.
Status MeasureBatch(Engine& engine, int batch, int context, int steps) {
  const int vocab_size = engine.info().vocab_size;
  for (const int output_len : {1, steps}) {
    const auto prompts = RandomPrompts(batch, context, output_len, vocab_size, 7);
    const EngineStats before = engine.Stats();
    TANGRAM_ASSIGN_OR_RETURN(const OfflineResult run, RunOffline(engine, prompts));
    const EngineStats after = engine.Stats();
    if (output_len == 1) continue;
    const std::vector<double> seconds = StepSeconds(run);
    const double host = after.schedule_seconds + after.forward_seconds + after.sample_seconds -
                        before.schedule_seconds - before.forward_seconds - before.sample_seconds;
    const auto count = static_cast<double>(after.num_steps - before.num_steps);
    const json line = {{"batch", batch},
                       {"context", context},
                       {"step_ms", Percentile(seconds, 50) * 1e3},
                       {"p90_ms", Percentile(seconds, 90) * 1e3},
                       {"steps", seconds.size()},
                       {"host_us", host / count * 1e6}};
    fmt::print("{}\n", line.dump());
    std::fflush(stdout);
  }
  return {};
}

Status MeasurePrefill(Engine& engine, int context) {
  double least = 1e9;
  for (uint64_t i = 0; i < 3; ++i) {
    const auto prompts = RandomPrompts(1, context, 1, engine.info().vocab_size, 100 + i);
    TANGRAM_ASSIGN_OR_RETURN(const OfflineResult run, RunOffline(engine, prompts));
    least = std::min(least, run.end - run.start);
  }
  fmt::print("{}\n", json{{"prefill", context}, {"s", least}}.dump());
  std::fflush(stdout);
  return {};
}

Status Measure(DecodeConfig& config) {
  SetLogLevel(LogLevel::kWarning);
  const auto start = std::chrono::steady_clock::now();
  TANGRAM_ASSIGN_OR_RETURN(const auto engine, LoadEngine(config.engine, config.text));
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
  fmt::print("{}\n", json{{"start_s", took.count()}}.dump());
  for (const std::string& text : config.batches) {
    int batch = 0, context = 0;
    if (std::sscanf(text.c_str(), "%dx%d", &batch, &context) != 2 || batch < 1 || context < 1) {
      return MakeError(
          ErrorKind::kInvalidArgument,
          fmt::format("--batches {}: write sequences x tokens of context, as 16x2048", text),
          "batches");
    }
    TANGRAM_RETURN_IF_ERROR(MeasureBatch(*engine, batch, context, config.steps));
  }
  for (const std::string& text : config.prefills) {
    TANGRAM_RETURN_IF_ERROR(MeasurePrefill(*engine, std::atoi(text.c_str())));
  }
  return {};
}

}  // namespace

int RunBenchDecode(Args args) {
  DecodeConfig config;
  Options options("tangram bench decode MODEL [flags]",
                  "Times decode steps by batch and context, and prefills: a JSON object a line.");
  DeclareModelOptions(options, config.engine, config.text);
  options.Group("Batches");
  options.Add("batches", &config.batches, "sequences x tokens of context");
  options.Add("prefills", &config.prefills, "tokens of single prompts");
  options.Add("steps", &config.steps, "tokens that each sequence generates");
  if (const auto code = ParseOrExit(options, std::move(args))) return *code;
  if (config.engine.model_path.empty()) {
    return Fail({ErrorKind::kInvalidArgument, "name a model", "--model"});
  }
  const Status status = Measure(config);
  return status ? kExitOk : Fail(status.error());
}

}  // namespace tangram::apps::bench
