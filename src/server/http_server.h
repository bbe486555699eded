#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"
#include "server/server_config.h"

namespace tangram::server {

using HttpHeaders = std::vector<std::pair<std::string, std::string>>;

struct HttpRequest {
  std::string method;  // "GET"
  std::string path;    // without the query
  std::string query;
  HttpHeaders headers;  // names in lower case
  std::string body;
  std::string peer;  // address:port

  // The first header of that (lower case) name; empty if there is none.
  std::string_view Header(std::string_view name) const;
};

struct HttpResponse {
  int status = 200;
  std::string content_type = "application/json";
  std::string body;
  HttpHeaders headers;
};

// The reply to one request. Used, and dropped, on the server's thread only; after the client has
// gone the calls do nothing. If the last reference is dropped before the reply is complete, the
// connection is closed.
class HttpReply {
 public:
  virtual ~HttpReply() = default;
  // Sent with every reply; before Send or StartStream.
  virtual void AddHeader(std::string name, std::string value) = 0;
  // The whole reply. Once, and not with the three below.
  virtual void Send(HttpResponse response) = 0;
  // A reply of unknown length: start, any number of writes, end.
  virtual void StartStream(std::string content_type) = 0;
  virtual void Write(std::string_view bytes) = 0;
  virtual void End() = 0;
  // Called once, if the client goes away, or is cut off for not reading, before the reply is
  // complete; at once if that has happened. Replaces the previous callback.
  virtual void OnDisconnect(std::function<void()> callback) = 0;
};

// Told of each reply when it is complete or given up. status 499: the client left first.
struct HttpAccess {
  std::string_view method, path, peer;
  int status = 0;
  double seconds = 0;
};

// HTTP/1.1 with keep-alive on one thread of its own. Requests are read whole before they are
// handled; the limits and timeouts of ServerConfig hold.
class HttpServer {
 public:
  using Handler = std::function<void(HttpRequest, std::shared_ptr<HttpReply>)>;

  struct Callbacks {
    Handler handle;                                  // on the server's thread: must not block
    std::function<void(const HttpAccess&)> on_done;  // likewise
    // How the server itself says what is wrong with a request: a status and a message to a body.
    std::function<HttpResponse(int status, const std::string& message)> render_error;
  };

  HttpServer(const ServerConfig& config, Callbacks callbacks);
  ~HttpServer();

  // Binds and starts the thread.
  Status Start();
  int port() const;
  // Runs `task` on the server's thread.
  void Post(std::function<void()> task);
  // Runs `task` on the server's thread every `period`, until Stop.
  void Every(std::chrono::milliseconds period, std::function<void()> task);
  // `callback` gets each SIGINT and SIGTERM, on the server's thread. Before Start.
  void OnSignal(std::function<void(int)> callback);
  // No new connections; idle ones are closed, others after the reply in progress.
  void StopAccepting();
  // Waits until each connection has sent what it had to, or until `timeout`. Not on the server's
  // thread.
  void Flush(std::chrono::milliseconds timeout);
  // Closes everything and joins the thread. Again: nothing.
  void Stop();

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace tangram::server
