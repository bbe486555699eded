#include "server/api.h"

#include <fmt/ranges.h>

#include <algorithm>

#include "base/log.h"
#include "server/access.h"
#include "server/error_response.h"
#include "server/json_replies.h"

namespace tangram::server {
namespace {

bool IsJson(std::string_view content_type) {
  std::string media(content_type.substr(0, content_type.find(';')));
  std::erase(media, ' ');
  std::ranges::transform(media, media.begin(), [](unsigned char c) { return std::tolower(c); });
  return media == "application/json";
}

}  // namespace

struct Api::Route {
  std::string_view method, path;
  void (Api::*handle)(const HttpRequest&, std::shared_ptr<HttpReply>);
  enum class For { kKeyHolders, kEverybody, kAdmins } whom = For::kKeyHolders;
  bool needs_model = false;  // 503 until it is loaded
};

const std::vector<Api::Route>& Api::Routes() {
  static const std::vector<Route> routes = {
      {.method = "GET", .path = "/health", .handle = &Api::Health, .whom = Route::For::kEverybody},
      {.method = "GET", .path = "/ping", .handle = &Api::Health, .whom = Route::For::kEverybody},
      {.method = "GET", .path = "/livez", .handle = &Api::Live, .whom = Route::For::kEverybody},
      {.method = "GET",
       .path = "/version",
       .handle = &Api::Version,
       .whom = Route::For::kEverybody},
      {.method = "GET", .path = "/metrics", .handle = &Api::RenderMetrics},
      {.method = "GET", .path = "/load", .handle = &Api::Load},
      {.method = "GET", .path = "/v1/models", .handle = &Api::Models, .needs_model = true},
      {.method = "POST", .path = "/tokenize", .handle = &Api::Tokenize, .needs_model = true},
      {.method = "POST", .path = "/detokenize", .handle = &Api::Detokenize, .needs_model = true},
      {.method = "POST", .path = "/v1/chat/completions", .handle = &Api::Chat, .needs_model = true},
      {.method = "POST",
       .path = "/v1/completions",
       .handle = &Api::Completion,
       .needs_model = true},
      {.method = "POST",
       .path = "/reset_prefix_cache",
       .handle = &Api::ResetPrefixCache,
       .whom = Route::For::kAdmins},
  };
  return routes;
}

Api::Api(const ServerConfig& config, std::function<void(std::function<void()>)> post)
    : config_(config),
      post_(std::move(post)),
      random_(std::random_device{}()),
      bridge_(std::make_shared<EventBridge>(
          post_, [this](const EventBridge::Item& item) { OnEngineEvent(item); })),
      text_pool_(config.num_text_threads) {}

Api::~Api() { Stop(); }

void Api::Stop() {
  text_pool_.Stop();
  bridge_->Close();
}

void Api::SetModel(Model model) {
  model_ = std::move(model);
  metrics_.SetModel(model_->names.front(), model_->engine->info());
}

const Api::Route* Api::FindRoute(std::string_view path) const {
  if (path.starts_with("/v1/models/")) path = "/v1/models";
  const auto it = std::ranges::find(Routes(), path, &Route::path);
  return it == Routes().end() ? nullptr : &*it;
}

std::string Api::RouteList() {
  std::string list;
  for (const Route& route : Routes()) {
    list += fmt::format("{}{} {}", list.empty() ? "" : ", ", route.method, route.path);
  }
  return list;
}

// Of a client whose base URL lacks a /v1, or has two, the path that it means is told.
HttpResponse Api::NoRoute(const std::string& path) {
  const std::string_view whole(path), asked = whole.substr(0, whole.find_last_not_of('/') + 1);
  const Route* meant = nullptr;
  for (const Route& route : Routes()) {
    const bool close =
        asked.size() > 1 && (route.path.ends_with(asked) || asked.ends_with(route.path));
    if (close && (!meant || route.path.size() < meant->path.size())) meant = &route;
  }
  constexpr size_t kShown = 200;
  return ErrorResponse(
      404,
      fmt::format("There is no `{}`{} This server has {}.", ForLog(path, kShown),
                  meant ? fmt::format("; did you mean `{}`?", meant->path) : ".", RouteList()));
}

std::string Api::StripRoot(std::string path) const {
  const std::string& root = config_.root_path;
  if (!root.empty() && path.starts_with(root + "/")) path.erase(0, root.size());
  return path;
}

void Api::Handle(HttpRequest request, std::shared_ptr<HttpReply> reply) {
  request.path = StripRoot(std::move(request.path));
  for (auto& [name, value] : CorsHeaders(request, config_.allowed_origins)) {
    reply->AddHeader(std::move(name), std::move(value));
  }
  if (const std::string_view id = request.Header("x-request-id"); !id.empty()) {
    reply->AddHeader("X-Request-Id", std::string(id.substr(0, kMaxIdLength)));
  }
  if (request.method == "OPTIONS") return reply->Send({.status = 204, .content_type = ""});
  const Route* route = FindRoute(request.path);
  if (auto refusal = CheckKey(route, request)) return reply->Send(std::move(*refusal));
  if (!route) return reply->Send(NoRoute(request.path));
  if (Admit(*route, request, *reply)) (this->*route->handle)(request, std::move(reply));
}

std::optional<HttpResponse> Api::CheckKey(const Route* route, const HttpRequest& request) const {
  const Route::For whom = route ? route->whom : Route::For::kKeyHolders;
  if (whom == Route::For::kEverybody) return std::nullopt;
  const bool admin = whom == Route::For::kAdmins;
  if (admin && config_.admin_api_key.empty()) {
    return ErrorResponse(403, fmt::format("`{}` is switched off. To use it, start the server with "
                                          "--admin-api-key KEY.",
                                          route->path));
  }
  if (HasKey(request, admin ? std::vector{config_.admin_api_key} : config_.api_keys)) {
    return std::nullopt;
  }
  return ErrorResponse(401,
                       fmt::format("Unauthorized: {} is needed, as `Authorization: Bearer KEY`",
                                   admin ? "the key of --admin-api-key" : "a valid key"));
}

bool Api::Admit(const Route& route, const HttpRequest& request, HttpReply& reply) {
  const bool head = request.method == "HEAD" && route.method == "GET";
  if (request.method != route.method && !head) {
    HttpResponse response =
        ErrorResponse(405, fmt::format("`{}` only accepts {}.", route.path, route.method));
    response.headers.emplace_back("Allow", std::string(route.method) + ", OPTIONS");
    return reply.Send(std::move(response)), false;
  }
  const bool has_body = route.whom != Route::For::kAdmins;
  if (route.method == "POST" && has_body && !IsJson(request.Header("content-type"))) {
    return reply.Send(ErrorResponse(400, "The Content-Type must be application/json.")), false;
  }
  if (!route.needs_model) return true;
  const char* reason = draining_ ? "shutting_down" : !model_ ? "loading" : nullptr;
  if (!reason && NumPending() >= config_.max_pending_requests) reason = "queue_full";
  if (!reason) return true;
  metrics_.OnRejected(reason);
  const std::string_view message = draining_ ? "The server is shutting down."
                                   : !model_ ? "Loading model"
                                             : "Too many requests are waiting.";
  return reply.Send(ErrorResponse(503, message)), false;
}

int Api::NumPending() const { return static_cast<int>(in_flight_.size()) - num_generating_; }

void Api::OnDone(const HttpAccess& access) {
  const Route* route = FindRoute(StripRoot(std::string(access.path)));
  constexpr std::string_view kMethods[] = {"GET", "POST", "OPTIONS", "HEAD"};
  HttpAccess counted = access;
  if (std::ranges::find(kMethods, access.method) == std::end(kMethods)) counted.method = "other";
  metrics_.OnHttp(route ? route->path : "none", counted);
  if (!config_.access_log) return;
  LogInfo("{} - \"{} {}\" {} {:.3f} s", access.peer, ForLog(access.method, 16),
          ForLog(access.path, 200), access.status, access.seconds);
}

void Api::Health(const HttpRequest&, std::shared_ptr<HttpReply> reply) {
  if (draining_) return reply->Send(ErrorResponse(503, "The server is shutting down."));
  if (!model_) return reply->Send(ErrorResponse(503, "Loading model"));
  if (model_->engine->dead()) return reply->Send(ErrorResponse(503, "The engine has died."));
  reply->Send({.content_type = ""});
}

void Api::Live(const HttpRequest&, std::shared_ptr<HttpReply> reply) {
  reply->Send({.content_type = ""});
}

void Api::Version(const HttpRequest&, std::shared_ptr<HttpReply> reply) {
  reply->Send({.body = VersionJson()});
}

Status Api::CheckModel(const std::string& name, const ServedModel& model) {
  if (name.empty() || std::ranges::find(model.names, name) != model.names.end()) return {};
  return MakeError(ErrorKind::kNotFound,
                   fmt::format("The model `{}` does not exist; this server has `{}`.", name,
                               model.names.front()),
                   "model");
}

void Api::Models(const HttpRequest& request, std::shared_ptr<HttpReply> reply) {
  constexpr std::string_view kOne = "/v1/models/";
  if (!request.path.starts_with(kOne) || request.path == kOne) {
    return reply->Send({.body = ModelsJson(*model_)});
  }
  const std::string name = PercentDecode(request.path.substr(kOne.size()));
  if (Status status = CheckModel(name, *model_); !status) {
    return reply->Send(ErrorResponse(status.error()));
  }
  reply->Send({.body = ModelJson(*model_, name)});
}

void Api::Load(const HttpRequest&, std::shared_ptr<HttpReply> reply) {
  const size_t load = config_.server_load_tracking ? in_flight_.size() : 0;
  reply->Send({.body = fmt::format("{{\"server_load\":{}}}", load)});
}

void Api::ResetPrefixCache(const HttpRequest&, std::shared_ptr<HttpReply> reply) {
  if (!model_) return reply->Send(ErrorResponse(503, "Loading model"));
  model_->engine->ClearPrefixCache();
  LogInfo("The prefix cache is emptied: POST /reset_prefix_cache");
  reply->Send({.content_type = ""});
}

void Api::RenderMetrics(const HttpRequest&, std::shared_ptr<HttpReply> reply) {
  std::string text;
  if (model_) {
    const EngineStats stats = model_->engine->Stats();
    text = metrics_.Render(&stats);
  } else {
    text = metrics_.Render(nullptr);
  }
  reply->Send(
      {.content_type = "text/plain; version=0.0.4; charset=utf-8", .body = std::move(text)});
}

}  // namespace tangram::server
