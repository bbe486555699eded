#include "server/openai_reply.h"

#include <cmath>
#include <ctime>

#include "server/error_response.h"
#include "server/json_fields.h"
#include "server/logprobs.h"
#include "text/tokenizer.h"

namespace tangram::server {
namespace {

Json UsageJson(const Usage& usage) {
  return {{"prompt_tokens", usage.prompt_tokens},
          {"total_tokens", usage.prompt_tokens + usage.completion_tokens},
          {"completion_tokens", usage.completion_tokens},
          {"prompt_tokens_details", {{"cached_tokens", usage.cached_tokens}}},
          {"kv",
           {{"logical_tokens", usage.logical_tokens},
            {"resident_tokens", std::lround(usage.resident_tokens)},
            {"ratio", std::round(usage.ratio * 100) / 100}}}};
}

Json StopReasonJson(const Delta& delta) {
  if (const auto* token = std::get_if<TokenId>(&delta.stop_reason)) return *token;
  if (const auto* text = std::get_if<std::string>(&delta.stop_reason)) return *text;
  return nullptr;
}

Json OrNull(const std::string& text) { return text.empty() ? Json() : Json(text); }

// `to` as if it had been one delta with `from`.
void Merge(Delta&& from, Delta* to) {
  to->text += from.text;
  to->tokens.insert(to->tokens.end(), from.tokens.begin(), from.tokens.end());
  std::move(from.logprobs.begin(), from.logprobs.end(), std::back_inserter(to->logprobs));
  to->finish_reason = std::move(from.finish_reason);
  to->stop_reason = std::move(from.stop_reason);
}

}  // namespace

struct OpenAiReply::Writer {
  struct Choice {
    bool begun = false;   // its first chunk was sent
    int text_offset = 0;  // for completions' logprobs
    Delta whole;          // of a reply that is not streamed
    std::vector<TokenId> prompt;
  };

  // The flags of the request; its prompts and messages are not kept.
  bool chat, stream, include_usage, continuous_usage, return_token_ids, tokens_as_ids;
  int num_logprobs;
  std::string role;

  std::string id, model;
  std::time_t created = std::time(nullptr);
  std::shared_ptr<const Tokenizer> tokenizer;
  std::shared_ptr<HttpReply> http;
  std::vector<Choice> choices;
  bool stream_started = false;

  Json Envelope(std::string_view object) const {
    return {{"id", id}, {"object", object}, {"created", created}, {"model", model}};
  }

  void Start() {
    if (!stream_started) http->StartStream("text/event-stream; charset=utf-8");
    stream_started = true;
  }

  void Send(const Json& event) {
    Start();
    http->Write("data: " + DumpJson(event) + "\n\n");
  }

  Json Logprobs(const std::vector<TokenEvent>& events, Choice* choice) const {
    if (num_logprobs < 0 || events.empty()) return nullptr;
    const LogprobFormat format{*tokenizer, tokens_as_ids};
    return chat ? ChatLogprobs(events, format)
                : CompletionLogprobs(events, format, &choice->text_offset);
  }

  // The role comes in a chunk of its own, with the first output of the engine and no sooner:
  // clients take it for the first token.
  void SendRole(int index, const Usage& usage) {
    Json chunk = Envelope("chat.completion.chunk");
    chunk["choices"] = Json::array({{{"index", index},
                                     {"delta", {{"role", role}, {"content", ""}}},
                                     {"logprobs", nullptr},
                                     {"finish_reason", nullptr}}});
    if (return_token_ids) chunk["prompt_token_ids"] = choices[index].prompt;
    if (continuous_usage) {
      Usage before = usage;
      before.completion_tokens = 0;
      chunk["usage"] = UsageJson(before);
    }
    Send(chunk);
  }

  void SendChunk(const Delta& delta, const Usage& usage) {
    Choice& choice = choices[delta.choice];
    const bool first = !choice.begun;
    choice.begun = true;
    if (first && chat) SendRole(delta.choice, usage);
    // Characters that are not whole yet, or held back for a stop string, have nothing to show.
    const bool shows = !delta.text.empty() || !delta.finish_reason.empty() ||
                       !delta.logprobs.empty() || return_token_ids || (first && !chat);
    if (!shows) return;
    Json chunk = Envelope(chat ? "chat.completion.chunk" : "text_completion");
    Json item = {{"index", delta.choice}};
    if (!chat) {
      item["text"] = delta.text;
    } else {
      item["delta"] = Json::object();
      if (!delta.text.empty() || delta.finish_reason.empty()) item["delta"]["content"] = delta.text;
    }
    item["logprobs"] = Logprobs(delta.logprobs, &choice);
    item["finish_reason"] = OrNull(delta.finish_reason);
    if (!chat || !delta.finish_reason.empty()) item["stop_reason"] = StopReasonJson(delta);
    if (return_token_ids) {
      item["token_ids"] = delta.tokens;
      if (first && !chat) item["prompt_token_ids"] = choice.prompt;
    }
    chunk["choices"] = Json::array({std::move(item)});
    if (continuous_usage) {
      chunk["usage"] = UsageJson(usage);
    } else if (!chat) {
      chunk["usage"] = nullptr;
    }
    Send(chunk);
  }

  Json WholeChoice(Choice* choice) const {
    const Delta& whole = choice->whole;
    Json item = {{"index", whole.choice}};
    if (chat) {
      item["message"] = {{"role", role}, {"content", whole.text}, {"refusal", nullptr}};
    } else {
      item["text"] = whole.text;
    }
    item["logprobs"] = Logprobs(whole.logprobs, choice);
    item["finish_reason"] = OrNull(whole.finish_reason);
    item["stop_reason"] = StopReasonJson(whole);
    if (return_token_ids) {
      item["token_ids"] = whole.tokens;
      if (!chat) item["prompt_token_ids"] = choice->prompt;
    }
    return item;
  }

  void SendWhole(const Usage& usage) {
    Json body = Envelope(chat ? "chat.completion" : "text_completion");
    Json list = Json::array();
    for (Choice& choice : choices) list.push_back(WholeChoice(&choice));
    body["choices"] = std::move(list);
    body["usage"] = UsageJson(usage);
    if (return_token_ids && chat) body["prompt_token_ids"] = choices[0].prompt;
    http->Send({.body = DumpJson(body)});
  }

  void End() {
    http->Write("data: [DONE]\n\n");
    http->End();
  }
};

OpenAiReply::OpenAiReply(const OpenAiRequest& request, std::string id, std::string model,
                         std::shared_ptr<const Tokenizer> tokenizer,
                         std::shared_ptr<HttpReply> http, std::vector<std::vector<TokenId>> prompts)
    : writer_(new Writer{.chat = request.chat,
                         .stream = request.stream,
                         .include_usage = request.include_usage,
                         .continuous_usage = request.continuous_usage,
                         .return_token_ids = request.return_token_ids,
                         .tokens_as_ids = request.tokens_as_ids,
                         .num_logprobs = request.sampling.num_logprobs,
                         .role = request.add_generation_prompt ? "assistant" : request.last_role,
                         .id = std::move(id),
                         .model = std::move(model),
                         .tokenizer = std::move(tokenizer),
                         .http = std::move(http)}) {
  writer_->choices.resize(prompts.size());
  for (size_t i = 0; i < prompts.size(); ++i) {
    writer_->choices[i].whole.choice = static_cast<int>(i);
    if (request.return_token_ids) writer_->choices[i].prompt = std::move(prompts[i]);
  }
}

OpenAiReply::~OpenAiReply() = default;

void OpenAiReply::Add(Delta delta, const Usage& usage) {
  if (writer_->stream) return writer_->SendChunk(delta, usage);
  Merge(std::move(delta), &writer_->choices[delta.choice].whole);
}

void OpenAiReply::Ping() {
  if (!writer_->stream) return;
  writer_->Start();
  writer_->http->Write(": ping\n\n");
}

void OpenAiReply::Finish(const Usage& usage) {
  if (!writer_->stream) return writer_->SendWhole(usage);
  if (writer_->include_usage) {
    Json chunk = writer_->Envelope(writer_->chat ? "chat.completion.chunk" : "text_completion");
    chunk["choices"] = Json::array();
    chunk["usage"] = UsageJson(usage);
    writer_->Send(chunk);
  }
  writer_->End();
}

void OpenAiReply::Fail(const Error& error) {
  if (!writer_->stream_started) return writer_->http->Send(ErrorResponse(error));
  writer_->http->Write("data: " + ErrorBody(HttpStatusOf(error.kind), error.message, error.param) +
                       "\n\n");
  writer_->End();
}

}  // namespace tangram::server
