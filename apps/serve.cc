// tangram serve: listens at once, loads the model, serves until it is told to stop.

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <future>
#include <utility>
#include <vector>

#include "base/log.h"
#include "calibration/text_calibration.h"
#include "command.h"
#include "engine/engine.h"
#include "engine_options.h"
#include "exit_codes.h"
#include "paging/budget.h"
#include "serve_options.h"
#include "server/server.h"
#include "text_model.h"

namespace tangram::apps {
namespace {

constexpr double kGiB = 1024.0 * 1024 * 1024;

double SecondsSince(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// Memory of this process that is in use now, GiB.
double ResidentGiB() {
  std::ifstream statm("/proc/self/statm");
  int64_t total = 0, resident = 0;
  statm >> total >> resident;
  return static_cast<double>(resident) * static_cast<double>(sysconf(_SC_PAGESIZE)) / kGiB;
}

// 643232 as 643,232.
std::string WithCommas(int64_t number) {
  std::string digits = std::to_string(number);
  for (int at = static_cast<int>(digits.size()) - 3; at > 0; at -= 3)
    digits.insert(static_cast<size_t>(at), 1, ',');
  return digits;
}

LogLevel ParseLevel(const std::string& name) {
  switch (std::toupper(name[0])) {
    case 'D':
      return LogLevel::kDebug;
    case 'W':
      return LogLevel::kWarning;
    case 'E':
      return LogLevel::kError;
    default:
      return LogLevel::kInfo;
  }
}

// Requests of the maximum length that the pool holds.
double Requests(const EngineInfo& info, int64_t peak_pages) {
  return static_cast<double>(info.num_pages) /
         static_cast<double>(std::max<int64_t>(1, peak_pages));
}

// The lines that operators of vLLM look for.
void LogCapacity(const EngineInfo& info) {
  const int element_bytes = info.kv_cache_dtype == "f32" ? 4 : 2;
  const double page_bytes =
      2.0 * info.page_size * info.page_group_size * info.head_dim * element_bytes;
  LogInfo("Using max model len {}", info.max_model_len);
  LogInfo("Available KV cache memory: {:.2f} GiB ({} pages of {} heads x {} tokens, {})",
          static_cast<double>(info.num_pages) * page_bytes / kGiB, info.num_pages,
          info.page_group_size, info.page_size, info.kv_cache_dtype);
  LogInfo("CPU KV cache size: {} tokens", WithCommas(info.capacity_tokens));
  LogInfo("Maximum concurrency for {} tokens per request: {:.2f}x", WithCommas(info.max_model_len),
          Requests(info, info.peak_pages_full));
}

// What belongs to one scorer alone; empty for most.
std::string ScorerSettings(const CompressionConfig& c) {
  const ExpectedAttentionConfig& e = c.expected_attention;
  switch (c.scorer) {
    case Scorer::kSnapKv:
      return fmt::format(" (queries {}, pooled over {})", c.lookback(), c.snapkv.kernel);
    case Scorer::kExpectedAttention:
      return fmt::format(" ({} positions ahead, {} covariance, {} value norm, epsilon {})",
                         e.future_positions, e.covariance ? "with" : "without",
                         e.value_norm ? "with" : "without", e.epsilon);
    default:
      return {};
  }
}

// What compression does, and what the pool holds with it: max_model_len x (pool / peak pages of one
// such request).
void LogCompression(const EngineInfo& info) {
  const CompressionConfig& c = info.compression;
  if (!c.enabled()) return LogInfo("KV cache compression: off");
  LogInfo(
      "KV cache compression: ratio {:.2f}, scorer {}{}, level {}, chunk {}, window {}, sinks {}, "
      "floor {}, {} groups of {} heads",
      c.ratio, ScorerName(c.scorer), ScorerSettings(c), LevelName(c.level), c.chunk, c.window,
      c.sinks, RetentionFloor(c, info.page_size), info.num_groups, info.page_group_size);
  LogInfo("Compression profile: {}", info.profile);
  if (c.ratio == 1) LogInfo("Only requests that set compression_ratio are compressed");
  std::vector<std::pair<float, int64_t>> capacities = {{1.0f, info.peak_pages_full}};
  if (c.ratio < 1) capacities.emplace_back(c.ratio, info.peak_pages);
  for (const auto& [ratio, peak] : capacities) {
    const double requests = Requests(info, peak);
    LogInfo("KV cache capacity at ratio {:.2f}: {} tokens, {:.2f} requests of {} tokens", ratio,
            WithCommas(static_cast<int64_t>(requests * info.max_model_len)), requests,
            WithCommas(info.max_model_len));
  }
}

// Engine and text side, loaded side by side.
Result<server::ServedModel> Load(const EngineConfig& engine_config, const TextConfig& text_config,
                                 const ServeConfig& serve) {
  const auto start = std::chrono::steady_clock::now();
  const double memory = ResidentGiB();
  auto text = std::async(std::launch::async,
                         [&] { return LoadTextModel(engine_config.model_path, text_config); });
  auto engine = LoadEngine(engine_config, text_config);
  auto text_model = text.get();
  if (!engine) return tl::unexpected(std::move(engine.error()));
  if (!text_model) return tl::unexpected(std::move(text_model.error()));
  LogInfo("Model loading took {:.2f} GiB memory and {:.2f} seconds", ResidentGiB() - memory,
          SecondsSince(start));
  LogCapacity((*engine)->info());
  LogCompression((*engine)->info());

  server::ServedModel model;
  model.engine = std::move(*engine);
  model.tokenizer = text_model->tokenizer;
  model.chat_template = text_model->chat_template;
  model.path = engine_config.model_path;
  model.names = serve.served_model_names;
  if (model.names.empty()) model.names = {engine_config.model_path};
  if (!model.chat_template) LogWarning("The model has no chat template: chat is answered 400");
  return model;
}

int Serve(const EngineConfig& engine, const TextConfig& text, server::ServerConfig config,
          const ServeConfig& serve) {
  const auto start = std::chrono::steady_clock::now();
  server::Server server(std::move(config));
  if (auto status = server.Listen(); !status) return Fail(status.error());
  auto model = Load(engine, text, serve);
  if (!model) return Fail(model.error());
  LogInfo("init engine (load, KV cache, tokenizer) took {:.2f} seconds", SecondsSince(start));
  server.SetReady(std::move(*model));
  if (auto status = server.Run(); !status) return Fail(status.error());
  return kExitOk;
}

}  // namespace

int RunServe(Args args) {
  EngineConfig engine;
  TextConfig text;
  server::ServerConfig server;
  ServeConfig serve;
  Options options("tangram serve MODEL [flags]",
                  "Serves a model through the OpenAI API. SIGTERM drains.");
  DeclareModelOptions(options, engine, text);
  DeclareServerOptions(options, server, serve);
  DeclareForeignEngineOptions(options);
  DeclareForeignServerOptions(options);
  if (const auto code = ParseOrExit(options, std::move(args))) return *code;
  if (engine.model_path.empty()) {
    return Fail({ErrorKind::kInvalidArgument, "name a model: tangram serve MODEL", "model"});
  }
  if (server.port < 0 || server.port > 65535) {
    return Fail(
        {ErrorKind::kInvalidArgument,
         fmt::format("--port {} is not a TCP port: it must be from 0 (any free one) to 65535",
                     server.port),
         "port"});
  }
  SetLogLevel(ParseLevel(serve.log_level));
  LogInfo("non-default args: {}", options.NonDefault());
  return Serve(engine, text, std::move(server), serve);
}

}  // namespace tangram::apps
