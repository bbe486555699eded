#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/string_body.hpp>
#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <unordered_set>

#include "server/http_server.h"

namespace tangram::server {

class HttpConnection;

// What the connections of one server share. All of it lives on the server's thread.
struct HttpShared {
  ServerConfig config;
  HttpServer::Callbacks callbacks;
  boost::asio::io_context io{1};
  std::unordered_set<HttpConnection*> connections;
  bool draining = false;
};

// One client's connection: reads requests one after the other, hands each to the handler, writes
// its reply. While a reply is on its way the socket is read too, which is how a client that leaves
// is noticed. Deadlines are checked by the server's sweep, not by a timer for each operation.
class HttpConnection : public std::enable_shared_from_this<HttpConnection> {
 public:
  using Clock = std::chrono::steady_clock;

  HttpConnection(std::shared_ptr<HttpShared> shared, boost::asio::ip::tcp::socket socket);
  ~HttpConnection();

  // Serves until the client leaves.
  void Start();
  // Closes the socket; a reply in progress is lost and its OnDisconnect called.
  void Close();
  void CloseIfIdle();
  void CloseIfOverdue(Clock::time_point now);
  bool flushed() const { return closed_ || (!writing_ && pending_.empty()); }

 private:
  class Reply;
  struct Exchange;  // the request that is being answered

  using Parser = boost::beast::http::request_parser<boost::beast::http::string_body>;

  enum class State {
    kIdle,     // between requests
    kHead,     // a request has begun
    kBody,     // its head is there
    kReply,    // it is being answered
    kRefused,  // it was none; the connection ends when the client has had time to read that
  };

  // Goes on as far as what has been read and written allows.
  void Advance();
  // One step of that; false: nothing more to do now.
  bool Step();
  bool Enter(State state, std::chrono::milliseconds timeout);
  void BeginIdle();
  bool Parse();
  void Refuse(int status, const std::string& message);
  bool WantsInput() const;
  void Dispatch(HttpRequest request);
  void StartRead();
  void Enqueue(std::string_view bytes);
  void WriteSome();
  void SetDeadline(std::chrono::milliseconds timeout);
  void ClearDeadline() { deadline_ = Clock::time_point::max(); }
  void Finish(int status);

  std::shared_ptr<HttpShared> shared_;
  boost::asio::ip::tcp::socket socket_;
  std::string incoming_;  // of the read under way
  std::string buffer_;    // read, but not yet parsed
  std::string peer_;
  Clock::time_point deadline_ = Clock::time_point::max();
  State state_ = State::kIdle;
  std::optional<Parser> parser_;
  bool reading_ = false, closed_ = false, shut_ = false;
  bool keep_alive_ = true, http10_ = false;

  std::string pending_, in_flight_;
  size_t sent_ = 0;  // of in_flight_
  bool writing_ = false;
  std::unique_ptr<Exchange> exchange_;
  uint64_t num_exchanges_ = 0;  // a reply handle of an earlier exchange does nothing
};

}  // namespace tangram::server
