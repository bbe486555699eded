#include "eval/conversations_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>

namespace tangram::apps::eval {
namespace {

using nlohmann::json;

tl::unexpected<Error> Bad(std::string message) {
  return MakeError(ErrorKind::kInvalidArgument, std::move(message), "data");
}

bool IsMessage(const json& message) {
  const auto has_text = [&](const char* key) {
    return message.contains(key) && message[key].is_string();
  };
  return message.is_object() && has_text("role") && has_text("content");
}

// The conversation up to a message, as the template writes it.
Result<std::string> Render(const TextModel& text, const json& messages, size_t count,
                           bool add_generation_prompt) {
  ChatInput input;
  input.messages = json(messages.begin(), messages.begin() + static_cast<ptrdiff_t>(count)).dump();
  input.add_generation_prompt = add_generation_prompt;
  return text.chat_template->Render(input);
}

Status Add(EvalStep::Kind kind, std::string_view part, const TextModel& text, EvalSample& sample) {
  TANGRAM_ASSIGN_OR_RETURN(auto tokens, text.tokenizer->Encode(part, false));
  if (!tokens.empty()) sample.steps.push_back({kind, std::move(tokens)});
  return {};
}

Result<EvalSample> MakeSample(const json& messages, const TextModel& text) {
  EvalSample sample{"conversations", 0, {}, {}};
  std::string done;
  for (size_t i = 0; i < messages.size(); ++i) {
    if (messages[i]["role"] != "assistant") continue;
    TANGRAM_ASSIGN_OR_RETURN(const std::string before, Render(text, messages, i, true));
    TANGRAM_ASSIGN_OR_RETURN(const std::string after, Render(text, messages, i + 1, false));
    if (!before.starts_with(done) || !after.starts_with(before)) {
      return MakeError(
          ErrorKind::kUnsupported,
          "the chat template writes earlier turns differently when others follow, so that the "
          "conversation cannot be scored as one text; name another template with --chat-template");
    }
    TANGRAM_RETURN_IF_ERROR(Add(EvalStep::Kind::kRead, before.substr(done.size()), text, sample));
    TANGRAM_RETURN_IF_ERROR(Add(EvalStep::Kind::kScore, after.substr(before.size()), text, sample));
    done = after;
  }
  return sample;
}

void Cut(EvalSample& sample, int max_tokens) {
  auto left = static_cast<size_t>(max_tokens);
  for (EvalStep& step : sample.steps) {
    step.tokens.resize(std::min(step.tokens.size(), left));
    left -= step.tokens.size();
  }
  std::erase_if(sample.steps, [](const EvalStep& step) { return step.tokens.empty(); });
}

}  // namespace

Result<std::vector<EvalSample>> ReadConversations(const std::string& path, const TextModel& text,
                                                  int count, int max_tokens) {
  if (!text.chat_template) return Bad("--data needs a chat template, and the model has none");
  std::ifstream file(path);
  if (!file) return Bad(fmt::format("{}: no such file", path));
  std::vector<EvalSample> samples;
  int number = 0;
  for (std::string line; std::getline(file, line);) {
    ++number;
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    if (count > 0 && static_cast<int>(samples.size()) == count) break;
    const json parsed = json::parse(line, nullptr, false);
    const bool good = parsed.is_object() && parsed.contains("messages") &&
                      parsed["messages"].is_array() &&
                      std::ranges::all_of(parsed["messages"], IsMessage);
    if (!good) {
      return Bad(fmt::format(
          "{}:{}: expected {{\"messages\": [{{\"role\": ..., \"content\": ...}}, ...]}}", path,
          number));
    }
    auto sample = MakeSample(parsed["messages"], text);
    if (!sample) {
      sample.error().message = fmt::format("{}:{}: {}", path, number, sample.error().message);
      return tl::unexpected(std::move(sample.error()));
    }
    if (sample->steps.empty()) {
      return Bad(fmt::format("{}:{}: no turn of the assistant to score", path, number));
    }
    sample->context = static_cast<int>(samples.size());
    Cut(*sample, max_tokens);
    samples.push_back(std::move(*sample));
  }
  if (samples.empty()) return Bad(fmt::format("{}: the file holds no conversation", path));
  return samples;
}

}  // namespace tangram::apps::eval
