// tangram generate: continues a prompt in this process.

#include <fmt/format.h>

#include <condition_variable>
#include <cstdio>
#include <deque>
#include <mutex>
#include <nlohmann/json.hpp>

#include "base/log.h"
#include "calibration/text_calibration.h"
#include "command.h"
#include "engine/engine.h"
#include "engine_options.h"
#include "exit_codes.h"
#include "text/stream_decoder.h"
#include "text_model.h"

namespace tangram::apps {
namespace {

struct GenerateConfig {
  std::string prompt;
  bool chat = false;
  bool ignore_eos = false;
  int max_tokens = 128;
  double temperature = 0;
  std::vector<std::string> stop;
};

void Declare(Options& options, GenerateConfig& config) {
  options.Group("Generation");
  options.Add("prompt", &config.prompt, "text to continue").Alias("-p");
  options.Add("chat", &config.chat, "put the prompt into the chat template, as a user's turn");
  options.Add("max-tokens", &config.max_tokens, "longest answer, in tokens").Alias("-n");
  options.Add("temperature", &config.temperature, "sampling temperature; 0: greedy");
  options.Add("stop", &config.stop, "texts that end the answer");
  options.Add("ignore-eos", &config.ignore_eos, "go on after the model's end token");
}

// Events from the engine's thread to this one.
class EventQueue {
 public:
  void Push(const TokenEvent& event) {
    const std::lock_guard lock(mutex_);
    events_.push_back(event);
    ready_.notify_one();
  }
  TokenEvent Pop() {
    std::unique_lock lock(mutex_);
    ready_.wait(lock, [this] { return !events_.empty(); });
    TokenEvent event = std::move(events_.front());
    events_.pop_front();
    return event;
  }

 private:
  std::mutex mutex_;
  std::condition_variable ready_;
  std::deque<TokenEvent> events_;
};

Result<std::vector<TokenId>> PromptTokens(const GenerateConfig& config, const TextModel& text) {
  if (!config.chat) return text.tokenizer->Encode(config.prompt, true);
  if (!text.chat_template) {
    return MakeError(ErrorKind::kInvalidArgument, "--chat: the model has no chat template", "chat");
  }
  ChatInput input;
  input.messages = nlohmann::json::array({{{"role", "user"}, {"content", config.prompt}}}).dump();
  TANGRAM_ASSIGN_OR_RETURN(const std::string rendered, text.chat_template->Render(input));
  return text.tokenizer->Encode(rendered, false);
}

Status Generate(Engine& engine, const TextModel& text, const GenerateConfig& config) {
  Request request;
  TANGRAM_ASSIGN_OR_RETURN(request.prompt, PromptTokens(config, text));
  request.compression_ratio = engine.info().compression.ratio;
  request.sampling.temperature = static_cast<float>(config.temperature);
  request.stop.max_tokens = config.max_tokens;
  request.stop.ignore_eos = config.ignore_eos;
  EventQueue events;
  TANGRAM_ASSIGN_OR_RETURN(
      const RequestId id,
      engine.Submit(std::move(request), [&](const TokenEvent& event) { events.Push(event); }));
  StreamDecoder decoder(text.tokenizer, {.stop = config.stop});
  const auto print = [](const std::string& piece) {
    std::fputs(piece.c_str(), stdout);
    std::fflush(stdout);
  };
  // The queue is used by the engine until the last event, so the loop always waits for it.
  for (bool finished = false; !finished;) {
    const TokenEvent event = events.Pop();
    finished = event.finished;
    const bool shown = event.token >= 0 && event.token != event.stop_token;
    if (shown && decoder.stopped_by() == nullptr) {
      print(decoder.Push(event.token));
      if (decoder.stopped_by() != nullptr) engine.Abort(id);
    }
    if (finished && event.reason == FinishReason::kError) {
      return MakeError(ErrorKind::kInternal, "the engine failed");
    }
  }
  print(decoder.Finish() + "\n");
  return {};
}

}  // namespace

int RunGenerate(Args args) {
  EngineConfig engine_config;
  TextConfig text_config;
  GenerateConfig config;
  Options options("tangram generate MODEL -p PROMPT [flags]",
                  "Continues a prompt in this process, without a server.");
  DeclareModelOptions(options, engine_config, text_config);
  Declare(options, config);
  if (const auto code = ParseOrExit(options, std::move(args))) return *code;
  if (engine_config.model_path.empty() || config.prompt.empty()) {
    return Fail({ErrorKind::kInvalidArgument,
                 "name a model and a prompt: tangram generate MODEL -p PROMPT", ""});
  }
  if (config.max_tokens < 1 || !(config.temperature >= 0)) {
    return Fail({ErrorKind::kInvalidArgument,
                 "--max-tokens must be at least 1, and --temperature not negative", ""});
  }
  SetLogLevel(LogLevel::kWarning);
  const auto text = LoadTextModel(engine_config.model_path, text_config);
  if (!text) return Fail(text.error());
  const auto engine = LoadEngine(engine_config, text_config);
  if (!engine) return Fail(engine.error());
  const Status status = Generate(**engine, *text, config);
  return status ? kExitOk : Fail(status.error());
}

}  // namespace tangram::apps
