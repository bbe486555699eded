// tangram chat: a conversation in the terminal, with any server of the OpenAI API.

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <csignal>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <iterator>
#include <string>
#include <vector>

#include "client/openai_client.h"
#include "command.h"
#include "exit_codes.h"

namespace tangram::apps {
namespace {

using nlohmann::json;

// Set by Ctrl-C while an answer streams: the answer ends, the conversation goes on.
volatile std::sig_atomic_t interrupted = 0;

struct ChatConfig {
  std::string url = "http://127.0.0.1:8000";
  std::string api_key, model, system, document;
  std::vector<std::string> prompts;
  int max_tokens = 0;
  double temperature = -1, top_p = -1;
  bool show_usage = true;
};

void Declare(Options& options, ChatConfig& config) {
  options.Group("Server");
  options.Add("url", &config.url, "URL of the server").Positional();
  options.Add("api-key", &config.api_key, "API key of the server")
      .Secret()
      .Variable("OPENAI_API_KEY");
  options.Add("model", &config.model, "name of the model; empty: the server's first").Alias("-m");
  options.Group("Conversation");
  options.Add("system", &config.system, "system prompt").Alias("-s");
  options.Add("document", &config.document, "text file that is sent with the first question");
  options.Add("prompt", &config.prompts, "questions to ask before those typed in the terminal")
      .Alias("-p");
  options.Add("max-tokens", &config.max_tokens,
              "longest answer, in tokens; 0: the server's default");
  options.Add("temperature", &config.temperature,
              "sampling temperature; 0: greedy; negative: the server's default");
  options.Add("top-p", &config.top_p, "nucleus sampling; negative: the server's default");
  options.Add("usage", &config.show_usage, "show tokens and speed after each answer");
}

class Conversation {
 public:
  Conversation(const ChatConfig& config, client::Url url)
      : config_(config), client_(std::move(url), config.api_key) {
    Clear();
  }

  // The next question will follow this text.
  void Bring(std::string text) { brought_ = std::move(text); }

  // Finds the model to talk with.
  Status Connect() {
    model_ = config_.model;
    if (!model_.empty()) return {};
    TANGRAM_ASSIGN_OR_RETURN(model_, client_.FirstModel());
    return {};
  }

  const std::string& model() const { return model_; }

  void Clear() {
    messages_ = json::array();
    if (!config_.system.empty()) {
      messages_.push_back({{"role", "system"}, {"content", config_.system}});
    }
  }

  // One turn: prints the answer while it comes. After an error the turn is as if not asked.
  Status Ask(const std::string& question) {
    const std::string content = brought_.empty() ? question : brought_ + "\n\n" + question;
    messages_.push_back({{"role", "user"}, {"content", content}});
    interrupted = 0;
    const auto answer = client_.Stream("/v1/chat/completions", Body(), [](const std::string& text) {
      std::fputs(text.c_str(), stdout);
      std::fflush(stdout);
      return interrupted == 0;
    });
    fmt::print("\n");
    if (!answer) {
      messages_.erase(messages_.end() - 1);
      return tl::unexpected(answer.error());
    }
    brought_.clear();
    messages_.push_back({{"role", "assistant"}, {"content", answer->text}});
    if (config_.show_usage) PrintUsage(*answer);
    return {};
  }

 private:
  json Body() const {
    json body = {{"model", model_}, {"messages", messages_}};
    if (config_.max_tokens > 0) body["max_tokens"] = config_.max_tokens;
    if (config_.temperature >= 0) body["temperature"] = config_.temperature;
    if (config_.top_p >= 0) body["top_p"] = config_.top_p;
    return body;
  }

  static void PrintUsage(const client::StreamedAnswer& answer) {
    const double decoding = answer.last_chunk_seconds - answer.first_chunk_seconds;
    const double speed = decoding > 0 ? (answer.output_tokens - 1) / decoding : 0;
    fmt::print(
        "  [{} prompt tokens, {} of them cached; {} answered; first after {:.0f} ms, then "
        "{:.1f} tokens/s{}]\n",
        answer.prompt_tokens, answer.cached_tokens, answer.output_tokens,
        answer.first_chunk_seconds * 1000, speed,
        answer.finish_reason == "length" ? "; cut at the token limit" : "");
    if (answer.logical_tokens > 0) {
      fmt::print("  [KV cache: {} tokens of the conversation, {} held ({:.0f}%)]\n",
                 answer.logical_tokens, answer.resident_tokens,
                 100.0 * answer.resident_tokens / answer.logical_tokens);
    }
  }

  const ChatConfig& config_;
  client::OpenAiClient client_;
  std::string model_, brought_;
  json messages_;
};

// A slash and one word: hardly a question.
bool IsCommand(const std::string& line) {
  return line.size() > 1 && line[0] == '/' &&
         std::all_of(line.begin() + 1, line.end(), [](unsigned char c) { return std::isalpha(c); });
}

// The given questions, then lines from the terminal or a pipe, until the end or /exit.
int Talk(Conversation& conversation, const ChatConfig& config) {
  const bool terminal = isatty(STDIN_FILENO) != 0;
  size_t next = 0;
  std::string line;
  while (true) {
    fmt::print("\n> ");
    std::fflush(stdout);
    const bool given = next < config.prompts.size();
    if (given) {
      line = config.prompts[next++];
    } else if (!std::getline(std::cin, line)) {
      break;
    }
    if (given || !terminal) fmt::print("{}\n", line);
    if (line.empty()) continue;
    if (line == "/exit" || line == "/quit") break;
    if (line == "/clear") {
      conversation.Clear();
      continue;
    }
    if (IsCommand(line)) {
      fmt::print("Unknown command {}. /clear starts a new conversation, /exit quits.\n", line);
      continue;
    }
    if (auto status = conversation.Ask(line); !status) {
      const int code = Fail(status.error());
      if (!terminal) return code;  // nobody is there to ask again
    }
  }
  fmt::print("\n");
  return kExitOk;
}

Result<std::string> ReadDocument(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::string text{std::istreambuf_iterator<char>(file), {}};
  if (text.empty()) {
    return MakeError(ErrorKind::kInvalidArgument,
                     fmt::format("--document {}: the file is missing or empty", path), "document");
  }
  return text;
}

}  // namespace

int RunChat(Args args) {
  ChatConfig config;
  Options options(
      "tangram chat [URL] [flags]",
      "Talks with a model in the terminal, through any server of the OpenAI API.\n"
      "/clear starts a new conversation, /exit or Ctrl-D quits, Ctrl-C stops an answer.");
  Declare(options, config);
  if (const auto code = ParseOrExit(options, std::move(args))) return *code;
  const auto url = client::ParseUrl(config.url);
  if (!url) return Fail(url.error());
  Conversation conversation(config, *url);
  if (!config.document.empty()) {
    auto text = ReadDocument(config.document);
    if (!text) return Fail(text.error());
    fmt::print("The first question is sent with the text of {} ({} bytes).\n", config.document,
               text->size());
    conversation.Bring(std::move(*text));
  }
  if (auto status = conversation.Connect(); !status) {
    Error error = status.error();
    if (error.kind == ErrorKind::kUnavailable)
      error.message += "; is `tangram serve MODEL` running?";
    return Fail(error);
  }
  std::signal(SIGINT, [](int) { interrupted = 1; });
  fmt::print("{} at {}  (/clear, /exit)\n", conversation.model(), config.url);
  return Talk(conversation, config);
}

}  // namespace tangram::apps
