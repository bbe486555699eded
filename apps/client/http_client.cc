#include "client/http_client.h"

#include <fmt/format.h>

#include <boost/asio/connect.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http.hpp>
#include <limits>
#include <optional>

#include "client/sse_reader.h"

namespace tangram::apps::client {
namespace {

namespace asio = boost::asio;
namespace http = boost::beast::http;
using boost::system::error_code;
using Request = http::request<http::string_body>;

}  // namespace

class HttpClient::Connection {
 public:
  error_code Open(const Url& url) {
    error_code error;
    asio::ip::tcp::resolver resolver(context_);
    const auto endpoints = resolver.resolve(url.host, url.port, error);
    if (error) return error;
    asio::connect(socket_, endpoints, error);
    if (!error) socket_.set_option(asio::ip::tcp::no_delay(true));
    return error;
  }

  // Sends the request and reads the reply. `answered` says whether any of it came.
  error_code Exchange(const Request& request, const OnData& on_data, HttpReply& reply,
                      bool& answered) {
    answered = false;
    error_code error;
    http::write(socket_, request, error);
    if (error) return error;
    http::response_parser<http::string_body> parser;
    parser.body_limit(std::numeric_limits<uint64_t>::max());
    http::read_header(socket_, buffer_, parser, error);
    if (error) return error;
    answered = true;
    reply.status = parser.get().result_int();
    const bool events =
        on_data && parser.get()[http::field::content_type].starts_with("text/event-stream");
    error = events ? ReadEvents(parser, on_data) : ReadBody(parser, reply);
    if (error || !parser.get().keep_alive()) reusable_ = false;
    return error;
  }

  bool reusable() const { return reusable_; }

 private:
  using Parser = http::response_parser<http::string_body>;

  error_code ReadBody(Parser& parser, HttpReply& reply) {
    error_code error;
    http::read(socket_, buffer_, parser, error);
    reply.body = std::move(parser.get().body());
    return error;
  }

  error_code ReadEvents(Parser& parser, const OnData& on_data) {
    SseReader reader;
    parser.eager(false);  // else read_some returns only when the message is whole
    bool wanted = true;
    while (wanted && !parser.is_done()) {
      error_code error;
      http::read_some(socket_, buffer_, parser, error);
      if (error) return error;
      reader.Push(parser.get().body(), [&](std::string_view data) {
        if (wanted) wanted = on_data(data);
      });
      parser.get().body().clear();
    }
    if (!wanted) reusable_ = false;
    return {};
  }

  asio::io_context context_;
  asio::ip::tcp::socket socket_{context_};
  boost::beast::flat_buffer buffer_;
  bool reusable_ = true;
};

HttpClient::HttpClient(Url url, std::string api_key)
    : url_(std::move(url)), api_key_(std::move(api_key)) {}
HttpClient::~HttpClient() = default;

Result<HttpReply> HttpClient::Get(const std::string& path) { return Exchange(path, nullptr, {}); }

Result<HttpReply> HttpClient::Post(const std::string& path, const std::string& body) {
  return Exchange(path, &body, {});
}

Result<HttpReply> HttpClient::PostForEvents(const std::string& path, const std::string& body,
                                            const OnData& on_data) {
  return Exchange(path, &body, on_data);
}

Result<HttpReply> HttpClient::Exchange(const std::string& path, const std::string* body,
                                       const OnData& on_data) {
  Request request(body ? http::verb::post : http::verb::get, url_.prefix + path, 11);
  request.set(http::field::host, url_.host + ":" + url_.port);
  if (!api_key_.empty()) request.set(http::field::authorization, "Bearer " + api_key_);
  if (body) {
    request.set(http::field::content_type, "application/json");
    request.body() = *body;
  }
  request.prepare_payload();

  while (true) {
    const bool kept = connection_ != nullptr;
    error_code error;
    if (!kept) {
      connection_ = std::make_unique<Connection>();
      error = connection_->Open(url_);
    }
    HttpReply reply;
    bool answered = false;
    if (!error) error = connection_->Exchange(request, on_data, reply, answered);
    if (error || !connection_->reusable()) connection_.reset();
    if (!error) return reply;
    // A connection that was kept may have been closed while idle: once more, on a new one.
    if (kept && !answered) continue;
    return MakeError(ErrorKind::kUnavailable, fmt::format("http://{}:{}{}: {}", url_.host,
                                                          url_.port, path, error.message()));
  }
}

}  // namespace tangram::apps::client
