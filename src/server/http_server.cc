#include "server/http_server.h"

#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/ip/v6_only.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/signal_set.hpp>
#include <boost/asio/steady_timer.hpp>
#include <csignal>
#include <future>
#include <optional>
#include <thread>

#include "base/log.h"
#include "server/http_connection.h"
#include "server/http_wire.h"

namespace tangram::server {
namespace asio = boost::asio;
using asio::ip::tcp;
using boost::system::error_code;

namespace {

constexpr auto kSweepPeriod = std::chrono::milliseconds(100);

std::string JoinHostPort(const std::string& host, int port) {
  return host.find(':') == std::string::npos ? fmt::format("{}:{}", host, port)
                                             : fmt::format("[{}]:{}", host, port);
}

}  // namespace

class HttpServer::Impl {
 public:
  Impl(const ServerConfig& config, Callbacks callbacks) : shared_(std::make_shared<HttpShared>()) {
    shared_->config = config;
    shared_->callbacks = std::move(callbacks);
  }

  Status Start() {
    TANGRAM_ASSIGN_OR_RETURN(const std::vector<tcp::endpoint> endpoints, Endpoints());
    error_code last;
    for (const tcp::endpoint& endpoint : endpoints) {
      if (error_code error = Bind(endpoint)) {
        last = error;
        if (error == asio::error::address_in_use || error == asio::error::access_denied) break;
      }
    }
    if (acceptors_.empty()) {
      return MakeError(
          ErrorKind::kInvalidArgument,
          fmt::format("cannot listen on {}: {}; choose another port with --port (0: any free one)",
                      JoinHostPort(shared_->config.host, shared_->config.port), last.message()),
          "port");
    }
    for (const auto& acceptor : acceptors_) Accept(acceptor);
    Every(kSweepPeriod, [this] { Sweep(); });
    thread_ = std::thread([this] { shared_->io.run(); });
    return {};
  }

  int port() const { return port_; }

  void Post(std::function<void()> task) { asio::post(shared_->io, std::move(task)); }

  void Every(std::chrono::milliseconds period, std::function<void()> task) {
    Post([this, period, task = std::move(task)] {
      timers_.push_back(std::make_unique<asio::steady_timer>(shared_->io));
      Repeat(timers_.back().get(), period, task);
    });
  }

  void OnSignal(std::function<void(int)> callback) {
    signals_.emplace(shared_->io, SIGINT, SIGTERM);
    AwaitSignal(std::move(callback));
  }

  void StopAccepting() {
    shared_->draining = true;
    error_code error;
    for (const auto& acceptor : acceptors_) acceptor->close(error);
    ForEachConnection([](HttpConnection& connection) { connection.CloseIfIdle(); });
  }

  void Flush(std::chrono::milliseconds timeout) {
    const auto end = std::chrono::steady_clock::now() + timeout;
    while (thread_.joinable() && std::chrono::steady_clock::now() < end && !AllFlushed()) {
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
  }

  void Stop() {
    if (!thread_.joinable()) return;
    Post([this] {
      stopping_ = true;
      StopAccepting();
      if (signals_) signals_->cancel();
      pause_.cancel();
      for (const auto& timer : timers_) timer->cancel();
      ForEachConnection([](HttpConnection& connection) { connection.Close(); });
      work_.reset();
    });
    thread_.join();
  }

 private:
  // The addresses to try: an empty host means IPv6 and IPv4 through one socket, or IPv4 alone.
  Result<std::vector<tcp::endpoint>> Endpoints() {
    const auto port = static_cast<unsigned short>(shared_->config.port);
    if (shared_->config.host.empty()) {
      return std::vector<tcp::endpoint>{{tcp::v6(), port}, {tcp::v4(), port}};
    }
    error_code error;
    tcp::resolver resolver(shared_->io);
    const auto results =
        resolver.resolve(shared_->config.host, std::to_string(port), tcp::resolver::passive, error);
    if (error) {
      return MakeError(
          ErrorKind::kInvalidArgument,
          fmt::format("cannot resolve the host `{}`: {}", shared_->config.host, error.message()),
          "host");
    }
    std::vector<tcp::endpoint> endpoints;
    for (const auto& entry : results) endpoints.push_back(entry.endpoint());
    return endpoints;
  }

  error_code Bind(const tcp::endpoint& endpoint) {
    const bool any_address = shared_->config.host.empty();
    if (any_address && !acceptors_.empty()) return {};  // the IPv6 socket takes IPv4 as well
    auto acceptor = std::make_shared<tcp::acceptor>(shared_->io);
    error_code error;
    if (acceptor->open(endpoint.protocol(), error)) return error;
    acceptor->set_option(tcp::acceptor::reuse_address(true), error);
    if (endpoint.protocol() == tcp::v6()) {
      acceptor->set_option(asio::ip::v6_only(!any_address), error);
    }
    tcp::endpoint wanted = endpoint;
    if (port_ != 0) wanted.port(static_cast<unsigned short>(port_));  // one port for all addresses
    if (acceptor->bind(wanted, error)) return error;
    if (acceptor->listen(4096, error)) return error;
    port_ = acceptor->local_endpoint(error).port();
    acceptors_.push_back(std::move(acceptor));
    return {};
  }

  void Accept(const std::shared_ptr<tcp::acceptor>& acceptor) {
    acceptor->async_accept([this, acceptor](error_code error, tcp::socket socket) {
      if (!acceptor->is_open()) return;
      if (!error) {
        Welcome(std::move(socket));
        return Accept(acceptor);
      }
      // Out of file descriptors, most likely: they come back as connections end.
      pause_.expires_after(std::chrono::milliseconds(100));
      pause_.async_wait([this, acceptor](error_code) {
        if (acceptor->is_open()) Accept(acceptor);
      });
    });
  }

  void Welcome(tcp::socket socket) {
    if (shared_->draining) return;
    if (static_cast<int>(shared_->connections.size()) < shared_->config.max_connections) {
      return std::make_shared<HttpConnection>(shared_, std::move(socket))->Start();
    }
    HttpResponse response = shared_->callbacks.render_error(503, "too many connections");
    ResponseHead head{.status = 503, .content_type = response.content_type, .keep_alive = false};
    head.content_length = static_cast<long long>(response.body.size());
    const std::string bytes = SerializeHead(head, {{"Retry-After", "1"}}) + response.body;
    error_code error;
    socket.non_blocking(true, error);
    socket.write_some(asio::buffer(bytes), error);  // all or nothing: it fits an empty send buffer
  }

  void Repeat(asio::steady_timer* timer, std::chrono::milliseconds period,
              const std::function<void()>& task) {
    if (stopping_) return;
    timer->expires_after(period);
    timer->async_wait([this, timer, period, task](error_code) {
      if (!stopping_) task();
      Repeat(timer, period, task);
    });
  }

  void AwaitSignal(std::function<void(int)> callback) {
    signals_->async_wait([this, callback = std::move(callback)](error_code error, int number) {
      if (error) return;
      callback(number);
      AwaitSignal(callback);
    });
  }

  template <class F>
  void ForEachConnection(F f) {
    // Closing one may remove it from the set.
    std::vector<std::shared_ptr<HttpConnection>> all;
    for (HttpConnection* connection : shared_->connections) {
      all.push_back(connection->shared_from_this());
    }
    for (const auto& connection : all) f(*connection);
  }

  void Sweep() {
    const auto now = HttpConnection::Clock::now();
    ForEachConnection([now](HttpConnection& connection) { connection.CloseIfOverdue(now); });
  }

  bool AllFlushed() {
    auto promise = std::make_shared<std::promise<bool>>();
    auto future = promise->get_future();
    Post([this, promise] {
      bool flushed = true;
      for (const HttpConnection* connection : shared_->connections) {
        flushed = flushed && connection->flushed();
      }
      promise->set_value(flushed);
    });
    return future.get();
  }

  std::shared_ptr<HttpShared> shared_;
  std::optional<asio::executor_work_guard<asio::io_context::executor_type>> work_{
      std::in_place, shared_->io.get_executor()};
  std::vector<std::shared_ptr<tcp::acceptor>> acceptors_;
  std::optional<asio::signal_set> signals_;
  asio::steady_timer pause_{shared_->io};
  std::vector<std::unique_ptr<asio::steady_timer>> timers_;
  bool stopping_ = false;
  int port_ = 0;
  std::thread thread_;
};

HttpServer::HttpServer(const ServerConfig& config, Callbacks callbacks)
    : impl_(std::make_unique<Impl>(config, std::move(callbacks))) {}
HttpServer::~HttpServer() { Stop(); }
Status HttpServer::Start() { return impl_->Start(); }
int HttpServer::port() const { return impl_->port(); }
void HttpServer::Post(std::function<void()> task) { impl_->Post(std::move(task)); }
void HttpServer::Every(std::chrono::milliseconds period, std::function<void()> task) {
  impl_->Every(period, std::move(task));
}
void HttpServer::OnSignal(std::function<void(int)> callback) {
  impl_->OnSignal(std::move(callback));
}
void HttpServer::StopAccepting() { impl_->StopAccepting(); }
void HttpServer::Flush(std::chrono::milliseconds timeout) { impl_->Flush(timeout); }
void HttpServer::Stop() { impl_->Stop(); }

}  // namespace tangram::server
