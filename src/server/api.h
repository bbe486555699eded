#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <unordered_map>

#include "server/event_bridge.h"
#include "server/generation.h"
#include "server/http_server.h"
#include "server/metrics.h"
#include "server/openai_request.h"
#include "server/server.h"
#include "server/text_pool.h"

namespace tangram::server {

// The endpoints: who may ask, what is asked, and what becomes of it. Lives on the HTTP server's
// thread; only the texts are worked on elsewhere.
class Api {
 public:
  using Clock = std::chrono::steady_clock;

  // `post` runs its argument on the HTTP server's thread.
  Api(const ServerConfig& config, std::function<void(std::function<void()>)> post);
  ~Api();

  void Handle(HttpRequest request, std::shared_ptr<HttpReply> reply);
  void OnDone(const HttpAccess& access);

  void SetModel(std::shared_ptr<const ServedModel> model);
  // New requests for text are refused from now on.
  void Drain() { draining_ = true; }
  // Ends what is in flight with a last frame.
  void AbortAll();
  void SendPings();
  bool idle() const { return in_flight_.empty(); }
  const ServedModel* model() const { return model_.get(); }
  const Metrics& metrics() const { return metrics_; }
  // "GET /health, POST /v1/completions, ...": all there are.
  static std::string RouteList();

  // Joins the text threads and stops listening to the engine. From the thread that owns this, while
  // the HTTP server's thread still runs.
  void Stop();

 private:
  struct Route;
  struct InFlight {
    std::shared_ptr<HttpReply> reply;
    std::shared_ptr<Generation> generation;  // null while the text is worked on
    Clock::time_point received;
    std::string request_id;  // of the header, or empty
  };
  using Model = std::shared_ptr<const ServedModel>;
  // Works on a body, on a text thread.
  using TextWork = std::function<HttpResponse(const std::string& body, const ServedModel& model)>;

  static constexpr size_t kMaxIdLength = 128;  // of X-Request-Id, the rest is cut off

  static const std::vector<Route>& Routes();
  const Route* FindRoute(std::string_view path) const;
  static HttpResponse NoRoute(const std::string& path);
  std::string StripRoot(std::string path) const;
  // Refuses a name that is not the model's; an empty one will do.
  static Status CheckModel(const std::string& name, const ServedModel& model);
  // Whether the request may go on; else it was answered.
  bool Admit(const Route& route, const HttpRequest& request, HttpReply& reply);
  // Whether the request's key opens the route (null: there is none), or what to answer.
  std::optional<HttpResponse> CheckKey(const Route* route, const HttpRequest& request) const;

  void Health(const HttpRequest& request, std::shared_ptr<HttpReply> reply);
  void Live(const HttpRequest& request, std::shared_ptr<HttpReply> reply);
  void Version(const HttpRequest& request, std::shared_ptr<HttpReply> reply);
  void Models(const HttpRequest& request, std::shared_ptr<HttpReply> reply);
  void Load(const HttpRequest& request, std::shared_ptr<HttpReply> reply);
  void RenderMetrics(const HttpRequest& request, std::shared_ptr<HttpReply> reply);
  void ResetPrefixCache(const HttpRequest& request, std::shared_ptr<HttpReply> reply);
  void Tokenize(const HttpRequest& request, std::shared_ptr<HttpReply> reply);
  void Detokenize(const HttpRequest& request, std::shared_ptr<HttpReply> reply);
  void Chat(const HttpRequest& request, std::shared_ptr<HttpReply> reply);
  void Completion(const HttpRequest& request, std::shared_ptr<HttpReply> reply);

  struct Prepared {
    OpenAiRequest request;
    std::vector<PreparedPrompt> prompts;
  };
  void Generate(const HttpRequest& request, std::shared_ptr<HttpReply> reply, bool chat);
  static Result<Prepared> Prepare(const std::string& body, bool chat, const ServedModel& model,
                                  const ServerConfig& config);
  void OnPrepared(uint64_t number, Result<Prepared> prepared, const Model& model);
  void OnEngineEvent(const EventBridge::Item& item);
  void OnDisconnect(uint64_t number);
  void RunText(const HttpRequest& request, std::shared_ptr<HttpReply> reply, TextWork work);

  uint64_t AddInFlight(const HttpRequest& request, std::shared_ptr<HttpReply> reply);
  // Waiting for, or at, the text threads.
  int NumPending() const;
  void LogUnknownFields(const std::vector<std::string>& names);
  void LogRequest(const Prepared& prepared, const std::string& id);
  std::string RandomId();

  const ServerConfig config_;
  const std::function<void(std::function<void()>)> post_;
  Metrics metrics_;
  Model model_;
  bool draining_ = false;
  std::unordered_map<uint64_t, InFlight> in_flight_;
  uint64_t next_number_ = 1;
  int num_generating_ = 0;
  std::set<std::string> unknown_fields_;
  std::mt19937_64 random_;
  std::shared_ptr<EventBridge> bridge_;  // shared with the engine's listeners
  TextPool text_pool_;
};

}  // namespace tangram::server
