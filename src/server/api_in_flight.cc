// What the API does with requests whose text is prepared on other threads and whose tokens come
// from the engine, until their replies are sent or their clients gone.

#include <fmt/ranges.h>

#include <algorithm>

#include "base/log.h"
#include "server/access.h"
#include "server/api.h"
#include "server/error_response.h"
#include "server/json_replies.h"

namespace tangram::server {
namespace {

constexpr size_t kMaxUnknownFields = 256;  // that are remembered as logged

}  // namespace

uint64_t Api::AddInFlight(const HttpRequest& request, std::shared_ptr<HttpReply> reply) {
  const uint64_t number = next_number_++;
  InFlight& entry = in_flight_[number];
  entry.reply = std::move(reply);
  entry.received = Clock::now();
  entry.request_id = std::string(request.Header("x-request-id").substr(0, kMaxIdLength));
  entry.reply->OnDisconnect([this, number] { OnDisconnect(number); });
  return number;
}

void Api::RunText(const HttpRequest& request, std::shared_ptr<HttpReply> reply, TextWork work) {
  const uint64_t number = AddInFlight(request, std::move(reply));
  text_pool_.Run([this, number, work = std::move(work), body = request.body, model = model_] {
    post_([this, number, response = work(body, *model)] {
      const auto it = in_flight_.find(number);
      if (it == in_flight_.end()) return;
      const auto replied = std::move(it->second.reply);
      in_flight_.erase(it);
      replied->Send(response);
    });
  });
}

void Api::Tokenize(const HttpRequest& request, std::shared_ptr<HttpReply> reply) {
  RunText(request, std::move(reply),
          [this](const std::string& body, const ServedModel& model) -> HttpResponse {
            auto parsed = ParseTokenizeRequest(body, {model.engine->info(), config_});
            if (!parsed) return ErrorResponse(parsed.error());
            if (Status status = CheckModel(parsed->input.model, model); !status) {
              return ErrorResponse(status.error());
            }
            auto ids = TokenizePrompts(parsed->input, model);
            if (!ids) return ErrorResponse(ids.error());
            return {.body = TokenizeJson(ids->front(), parsed->return_token_strings, model)};
          });
}

void Api::Detokenize(const HttpRequest& request, std::shared_ptr<HttpReply> reply) {
  RunText(request, std::move(reply),
          [this](const std::string& body, const ServedModel& model) -> HttpResponse {
            auto parsed = ParseDetokenizeRequest(body, {model.engine->info(), config_});
            if (!parsed) return ErrorResponse(parsed.error());
            if (Status status = CheckModel(parsed->model, model); !status) {
              return ErrorResponse(status.error());
            }
            return {.body = DetokenizeJson(parsed->tokens, model)};
          });
}

void Api::Chat(const HttpRequest& request, std::shared_ptr<HttpReply> reply) {
  Generate(request, std::move(reply), true);
}

void Api::Completion(const HttpRequest& request, std::shared_ptr<HttpReply> reply) {
  Generate(request, std::move(reply), false);
}

Result<Api::Prepared> Api::Prepare(const std::string& body, bool chat, const ServedModel& model,
                                   const ServerConfig& config) {
  const OpenAiLimits limits{model.engine->info(), config};
  Prepared prepared;
  TANGRAM_ASSIGN_OR_RETURN(prepared.request, chat ? ParseChatRequest(body, limits)
                                                  : ParseCompletionRequest(body, limits));
  TANGRAM_RETURN_IF_ERROR(CheckModel(prepared.request.model, model));
  TANGRAM_RETURN_IF_ERROR(TokenizeBadWords(model, &prepared.request));
  TANGRAM_ASSIGN_OR_RETURN(prepared.prompts, PreparePrompts(prepared.request, model));
  return prepared;
}

void Api::Generate(const HttpRequest& request, std::shared_ptr<HttpReply> reply, bool chat) {
  const uint64_t number = AddInFlight(request, std::move(reply));
  text_pool_.Run([this, number, chat, body = request.body, model = model_] {
    auto prepared = std::make_shared<Result<Prepared>>(Prepare(body, chat, *model, config_));
    post_([this, number, prepared, model] { OnPrepared(number, std::move(*prepared), model); });
  });
}

void Api::OnPrepared(uint64_t number, Result<Prepared> prepared, const Model& model) {
  const auto it = in_flight_.find(number);
  if (it == in_flight_.end()) return;  // the client has gone
  InFlight& entry = it->second;
  if (!prepared || draining_) {
    const auto reply = std::move(entry.reply);
    in_flight_.erase(it);
    metrics_.OnRejected(prepared ? "shutting_down" : "invalid");
    return reply->Send(prepared ? ErrorResponse(503, "The server is shutting down.")
                                : ErrorResponse(prepared.error()));
  }
  std::string id = entry.request_id;
  if (id.empty()) {
    id = prepared->request.request_id.empty() ? RandomId() : prepared->request.request_id;
    id.resize(std::min(id.size(), kMaxIdLength));
    entry.reply->AddHeader("X-Request-Id", id);
  }
  LogUnknownFields(prepared->request.unknown_fields);
  if (config_.log_requests) LogRequest(*prepared, id);
  const bool chat = prepared->request.chat;
  const auto generation =
      std::make_shared<Generation>(Generation::Setup{.request = std::move(prepared->request),
                                                     .prompts = std::move(prepared->prompts),
                                                     .id = (chat ? "chatcmpl-" : "cmpl-") + id,
                                                     .model = model,
                                                     .http = entry.reply,
                                                     .metrics = &metrics_,
                                                     .received = entry.received});
  entry.generation = generation;
  ++num_generating_;
  const Status status = generation->Submit([this, number](int choice) -> TokenListener {
    return [bridge = bridge_, number, choice](const TokenEvent& event) {
      bridge->Push({number, choice, event});
    };
  });
  if (!status) {
    metrics_.OnRejected(status.error().kind == ErrorKind::kUnavailable ? "queue_full" : "invalid");
  }
  if (generation->done() && in_flight_.erase(number)) --num_generating_;
}

void Api::OnEngineEvent(const EventBridge::Item& item) {
  const auto it = in_flight_.find(item.generation);
  if (it == in_flight_.end() || !it->second.generation) return;
  const auto generation = it->second.generation;  // the map's entry may go while it works
  generation->OnEvent(item.choice, item.event);
  if (generation->done() && in_flight_.erase(item.generation)) --num_generating_;
}

void Api::OnDisconnect(uint64_t number) {
  const auto it = in_flight_.find(number);
  if (it == in_flight_.end()) return;
  const auto generation = std::move(it->second.generation);
  in_flight_.erase(it);
  if (!generation) return;
  --num_generating_;
  generation->Cancel();
}

void Api::AbortAll() {
  auto all = std::move(in_flight_);
  in_flight_.clear();
  num_generating_ = 0;
  for (auto& [number, entry] : all) {
    if (entry.generation) {
      entry.generation->EndWithAbort();
    } else {
      entry.reply->Send(ErrorResponse(503, "The server is shutting down."));
    }
  }
}

void Api::SendPings() {
  for (auto& [number, entry] : in_flight_) {
    if (entry.generation) entry.generation->Ping();
  }
}

void Api::LogUnknownFields(const std::vector<std::string>& names) {
  std::vector<std::string> fresh;
  for (const std::string& name : names) {
    std::string shown = ForLog(name, 64);
    if (unknown_fields_.size() >= kMaxUnknownFields) break;
    if (unknown_fields_.insert(shown).second) fresh.push_back(std::move(shown));
  }
  if (fresh.empty()) return;
  LogWarning("Unknown fields of a request are ignored (said once for each): {}",
             fmt::join(fresh, ", "));
}

void Api::LogRequest(const Prepared& prepared, const std::string& id) {
  const OpenAiRequest& r = prepared.request;
  const std::string& text = r.chat ? r.messages : r.prompts.front().text;
  const size_t length =
      config_.max_log_len < 0 ? std::string::npos : static_cast<size_t>(config_.max_log_len);
  LogInfo(
      "Received request {}: prompt: {}, prompt tokens: {}, max_tokens: {}, temperature: {}, "
      "top_p: {}, top_k: {}, stream: {}",
      ForLog(id, kMaxIdLength), ForLog(text, length), prepared.prompts.front().ids.size(),
      prepared.prompts.front().max_tokens, r.sampling.temperature, r.sampling.top_p,
      r.sampling.top_k, r.stream);
}

std::string Api::RandomId() { return fmt::format("{:016x}{:016x}", random_(), random_()); }

}  // namespace tangram::server
