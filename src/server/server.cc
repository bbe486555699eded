#include "server/server.h"

#include <condition_variable>
#include <csignal>
#include <cstdlib>
#include <future>
#include <mutex>
#include <thread>

#include "base/log.h"
#include "server/api.h"
#include "server/error_response.h"
#include "server/http_server.h"
#include "server/stats_logger.h"

namespace tangram::server {
namespace {

constexpr auto kHealthPeriod = std::chrono::milliseconds(500);  // of looking at the engine
constexpr auto kPollPeriod = std::chrono::milliseconds(10);     // of looking whether all is drained
constexpr auto kFlushTimeout = std::chrono::milliseconds(2000);

}  // namespace

class Server::Impl {
 public:
  explicit Impl(ServerConfig config)
      : config_(std::move(config)),
        api_(config_, [this](std::function<void()> task) { http_.Post(std::move(task)); }),
        http_(config_, {.handle =
                            [this](HttpRequest request, std::shared_ptr<HttpReply> reply) {
                              api_.Handle(std::move(request), std::move(reply));
                            },
                        .on_done = [this](const HttpAccess& access) { api_.OnDone(access); },
                        .render_error =
                            [](int status, const std::string& message) {
                              return ErrorResponse(status, message);
                            }}) {}

  ~Impl() {
    api_.Stop();
    http_.Stop();
  }

  Status Listen() {
    if (config_.handle_signals) http_.OnSignal([this](int number) { OnSignal(number); });
    TANGRAM_RETURN_IF_ERROR(http_.Start());
    http_.Every(kHealthPeriod, [this] { CheckEngine(); });
    if (config_.log_stats) http_.Every(config_.log_stats_interval, [this] { LogStats(); });
    if (config_.sse_ping_interval.count() > 0) {
      http_.Every(config_.sse_ping_interval, [this] { api_.SendPings(); });
    }
    const std::string host = config_.host.empty() ? "0.0.0.0" : config_.host;
    LogInfo("Starting Tangram API server on http://{}:{}", host, http_.port());
    LogInfo("Available routes are: {}", Api::RouteList());
    return {};
  }

  int port() const { return http_.port(); }

  void SetReady(ServedModel model) {
    auto shared = std::make_shared<const ServedModel>(std::move(model));
    Ask<bool>([this, shared] {
      api_.SetModel(shared);
      return true;
    });
    LogInfo("Application startup complete. Serving {} (maximum context {} tokens)",
            shared->names.front(), shared->engine->info().max_model_len);
  }

  Status Run() {
    {
      std::unique_lock lock(mutex_);
      wake_.wait(lock, [this] { return num_stops_ > 0; });
    }
    Drain();
    if (died_) {
      return MakeError(ErrorKind::kInternal, "the engine has died; its error is in the log above");
    }
    return {};
  }

  void Shutdown() {
    {
      std::lock_guard lock(mutex_);
      ++num_stops_;
    }
    wake_.notify_all();
  }

 private:
  // Runs `f` on the server's thread and waits for its result.
  template <class T>
  T Ask(std::function<T()> f) {
    auto promise = std::make_shared<std::promise<T>>();
    auto future = promise->get_future();
    http_.Post([promise, f = std::move(f)] { promise->set_value(f()); });
    return future.get();
  }

  void OnSignal(int number) {
    if (!api_.model()) {
      LogInfo("Stopped by signal {} while loading", number);
      std::quick_exit(0);
    }
    LogInfo("Signal {}: finishing the requests in flight, for up to {} s", number,
            config_.shutdown_timeout.count() / 1000);
    Shutdown();
  }

  void CheckEngine() {
    if (died_ || !api_.model() || !api_.model()->engine->dead()) return;
    died_ = true;
    Shutdown();
  }

  void LogStats() {
    if (!api_.model()) return;
    bool idle = false;
    const std::string line = stats_.Line(api_.model()->engine->Stats(), api_.metrics().rejected(),
                                         StatsLogger::Clock::now(), &idle);
    Log(idle ? LogLevel::kDebug : LogLevel::kInfo, line);
  }

  // Whether a second signal, or the engine's death, has cut the time for draining short.
  bool Hurry() {
    std::lock_guard lock(mutex_);
    return num_stops_ > 1 || died_;
  }

  void Drain() {
    Ask<bool>([this] {
      api_.Drain();
      http_.StopAccepting();
      return true;
    });
    const auto end = std::chrono::steady_clock::now() + config_.shutdown_timeout;
    while (std::chrono::steady_clock::now() < end && !Hurry() &&
           !Ask<bool>([this] { return api_.idle(); })) {
      std::this_thread::sleep_for(kPollPeriod);
    }
    Ask<bool>([this] {
      api_.AbortAll();
      return true;
    });
    http_.Flush(kFlushTimeout);
    LogInfo("Application shutdown complete.");
  }

  const ServerConfig config_;
  StatsLogger stats_;
  Api api_;
  HttpServer http_;
  std::atomic<bool> died_ = false;
  std::mutex mutex_;
  std::condition_variable wake_;
  int num_stops_ = 0;
};

Server::Server(ServerConfig config) : impl_(std::make_unique<Impl>(std::move(config))) {}
Server::~Server() = default;
Status Server::Listen() { return impl_->Listen(); }
int Server::port() const { return impl_->port(); }
void Server::SetReady(ServedModel model) { impl_->SetReady(std::move(model)); }
Status Server::Run() { return impl_->Run(); }
void Server::Shutdown() { impl_->Shutdown(); }

}  // namespace tangram::server
