#include "server/prompts.h"

#include <fmt/format.h>

#include <algorithm>

#include "engine/engine.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace tangram::server {
namespace {

// No token of a served vocabulary stands for more text than this; a prompt that is longer than so
// many bytes a token cannot fit, and is refused before the work of tokenizing it.
constexpr size_t kMaxBytesPerToken = 1024;

tl::unexpected<Error> TooLong(const EngineInfo& info, int64_t prompt_tokens, std::string param) {
  return MakeError(
      ErrorKind::kInvalidArgument,
      fmt::format("This model's maximum context length is {} tokens. However, your request has {} "
                  "input tokens. Please reduce the length of the input messages.",
                  info.max_model_len, prompt_tokens),
      std::move(param));
}

std::string_view Trim(std::string_view text) {
  constexpr std::string_view kSpace = " \t\r\n\v\f";
  const size_t begin = text.find_first_not_of(kSpace);
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(kSpace) - begin + 1);
}

// Ends the prompt with the last message's content, for the model to go on from there: cuts off what
// the template puts after it, as transformers does (templates may trim the content).
Status CutAfterContent(const std::string& content, std::string* prompt) {
  size_t at = prompt->rfind(content);
  if (at != std::string::npos) {
    prompt->resize(at + content.size());
    return {};
  }
  const std::string_view trimmed = Trim(content);
  at = prompt->rfind(trimmed);
  if (trimmed.empty() || at == std::string::npos) {
    return MakeError(ErrorKind::kInvalidArgument,
                     "the chat template changes the last message's content, so it cannot be "
                     "continued",
                     "continue_final_message");
  }
  prompt->resize(at + trimmed.size());
  return {};
}

Result<std::string> RenderChat(const OpenAiRequest& request, const ServedModel& model) {
  if (!model.chat_template) {
    return MakeError(ErrorKind::kInvalidArgument,
                     "this model has no chat template: use /v1/completions, or start the server "
                     "with --chat-template",
                     "messages");
  }
  const ChatInput input{.messages = request.messages,
                        .tools = request.tools,
                        .documents = request.documents,
                        .kwargs = request.template_kwargs,
                        .add_generation_prompt = request.add_generation_prompt};
  Result<std::string> prompt;
  if (request.chat_template.empty()) {
    prompt = model.chat_template->Render(input);
  } else {
    auto own = model.chat_template->WithSource(request.chat_template);
    if (!own) return MakeError(own.error().kind, own.error().message, "chat_template");
    prompt = own->Render(input);
  }
  if (!prompt) {
    return MakeError(ErrorKind::kInvalidArgument, prompt.error().message, "messages");
  }
  if (request.continue_final_message) {
    TANGRAM_RETURN_IF_ERROR(CutAfterContent(request.last_content, &*prompt));
  }
  return prompt;
}

Result<std::vector<TokenId>> Encode(const std::string& text, const OpenAiRequest& request,
                                    const ServedModel& model) {
  const std::string param = request.chat ? "messages" : "prompt";
  const EngineInfo& info = model.engine->info();
  const size_t limit = static_cast<size_t>(info.max_model_len) * kMaxBytesPerToken;
  if (text.size() > limit) {
    return TooLong(info, static_cast<int64_t>(text.size() / kMaxBytesPerToken), param);
  }
  auto ids = model.tokenizer->Encode(text, request.add_special_tokens);
  if (!ids) return MakeError(ErrorKind::kInvalidArgument, ids.error().message, param);
  return ids;
}

// The tokens that the prompt may have: what truncate_prompt_tokens says.
size_t KeptTokens(const OpenAiRequest& request, const EngineInfo& info) {
  if (!request.truncate_prompt_tokens) return SIZE_MAX;
  if (*request.truncate_prompt_tokens > 0) {
    return static_cast<size_t>(*request.truncate_prompt_tokens);
  }
  return static_cast<size_t>(
      std::max(1, info.max_model_len - std::max(1, request.max_tokens.value_or(1))));
}

Result<int> FitMaxTokens(const OpenAiRequest& request, const EngineInfo& info, size_t size) {
  const auto used = static_cast<int64_t>(size);
  const int64_t room = info.max_model_len - used;
  if (room < (request.max_tokens == 0 ? 0 : 1)) {
    return TooLong(info, used, request.chat ? "messages" : "prompt");
  }
  if (request.max_tokens && *request.max_tokens > room) {
    return MakeError(
        ErrorKind::kInvalidArgument,
        fmt::format("`{}` is too large: {}. This model's maximum context length is {} tokens and "
                    "your request has {} input tokens ({} > {} - {}).",
                    request.max_tokens_param, *request.max_tokens, info.max_model_len, used,
                    *request.max_tokens, info.max_model_len, used),
        request.max_tokens_param);
  }
  int64_t max_tokens = request.max_tokens.value_or(static_cast<int>(room));
  if (info.default_max_tokens > 0) {
    max_tokens = std::min<int64_t>(max_tokens, info.default_max_tokens);
  }
  if (request.stop.min_tokens > max_tokens && max_tokens > 0) {
    return MakeError(
        ErrorKind::kInvalidArgument,
        fmt::format("`min_tokens` is too large: {}. At most {} tokens can be generated",
                    request.stop.min_tokens, max_tokens),
        "min_tokens");
  }
  return static_cast<int>(max_tokens);
}

std::string EchoOf(const OpenAiRequest& request, const ServedModel& model, size_t index,
                   const std::vector<TokenId>& ids, bool truncated) {
  if (!request.echo) return {};
  // A chat's answer is its own message, unless it goes on with the last one.
  if (request.chat) return request.add_generation_prompt ? "" : request.last_content;
  const OpenAiRequest::Prompt& prompt = request.prompts[index];
  if (!prompt.is_ids && !truncated) return prompt.text;
  return model.tokenizer->Decode(ids, request.skip_special_tokens);
}

}  // namespace

Result<std::vector<std::vector<TokenId>>> TokenizePrompts(const OpenAiRequest& request,
                                                          const ServedModel& model) {
  std::vector<std::vector<TokenId>> all;
  if (request.chat) {
    TANGRAM_ASSIGN_OR_RETURN(const std::string text, RenderChat(request, model));
    TANGRAM_ASSIGN_OR_RETURN(auto ids, Encode(text, request, model));
    all.push_back(std::move(ids));
  }
  for (const OpenAiRequest::Prompt& prompt : request.prompts) {
    if (prompt.is_ids) {
      all.push_back(prompt.ids);
      continue;
    }
    TANGRAM_ASSIGN_OR_RETURN(auto ids, Encode(prompt.text, request, model));
    all.push_back(std::move(ids));
  }
  return all;
}

Status TokenizeBadWords(const ServedModel& model, OpenAiRequest* request) {
  for (const std::string& word : request->bad_words) {
    for (const std::string& text : {word, " " + word}) {
      auto ids = model.tokenizer->Encode(text, /*add_special_tokens=*/false);
      if (!ids) return MakeError(ErrorKind::kInvalidArgument, ids.error().message, "bad_words");
      if (!ids->empty()) request->sampling.bad_words.push_back(std::move(*ids));
    }
  }
  return {};
}

Result<std::vector<PreparedPrompt>> PreparePrompts(const OpenAiRequest& request,
                                                   const ServedModel& model) {
  TANGRAM_ASSIGN_OR_RETURN(auto tokenized, TokenizePrompts(request, model));
  const EngineInfo& info = model.engine->info();
  const size_t kept = KeptTokens(request, info);
  std::vector<PreparedPrompt> prompts;
  for (size_t i = 0; i < tokenized.size(); ++i) {
    std::vector<TokenId>& ids = tokenized[i];
    const bool truncated = ids.size() > kept;
    if (truncated) ids.erase(ids.begin(), ids.end() - static_cast<std::ptrdiff_t>(kept));
    if (ids.empty()) {
      return MakeError(ErrorKind::kInvalidArgument, "the prompt is empty once it is tokenized",
                       request.chat ? "messages" : "prompt");
    }
    TANGRAM_ASSIGN_OR_RETURN(const int max_tokens, FitMaxTokens(request, info, ids.size()));
    std::string echo = EchoOf(request, model, i, ids, truncated);
    prompts.push_back({std::move(ids), max_tokens, std::move(echo)});
  }
  return prompts;
}

}  // namespace tangram::server
