#include "server/http_connection.h"

#include <algorithm>
#include <boost/asio/post.hpp>

#include "base/log.h"
#include "server/http_wire.h"

namespace tangram::server {
namespace asio = boost::asio;
namespace http = boost::beast::http;
using boost::system::error_code;

namespace {

constexpr auto kLinger = std::chrono::milliseconds(2000);
constexpr int kSendBuffer = 256 << 10;
constexpr size_t kReadSize = 4096;
constexpr size_t kReadAhead = 64u << 10;  // of a client that sends requests before it got its reply

HttpRequest ToRequest(http::request<http::string_body>&& message, const std::string& peer) {
  HttpRequest request;
  request.method = std::string(message.method_string());
  const std::string_view target(message.target().data(), message.target().size());
  const size_t question = target.find('?');
  request.path = std::string(target.substr(0, question));
  if (question != std::string_view::npos) request.query = std::string(target.substr(question + 1));
  for (const auto& field : message) {
    std::string name(field.name_string());
    for (char& c : name) {
      if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
    }
    request.headers.emplace_back(std::move(name), std::string(field.value()));
  }
  request.body = std::move(message.body());
  request.peer = peer;
  return request;
}

// The status that tells a client what the parser disliked; 0 if the client just left.
int StatusOf(error_code error) {
  if (error == http::error::body_limit) return 413;
  if (error == http::error::header_limit || error == http::error::buffer_overflow) return 431;
  if (error == http::error::end_of_stream || error == http::error::partial_message) return 0;
  return error.category() == http::make_error_code(http::error::bad_method).category() ? 400 : 0;
}

}  // namespace

struct HttpConnection::Exchange {
  std::string method, path;
  Clock::time_point start = Clock::now();
  HttpHeaders headers;
  std::function<void()> on_disconnect;
  int status = 0;
  bool started = false, streaming = false, complete = false;
};

class HttpConnection::Reply : public HttpReply {
 public:
  Reply(const std::shared_ptr<HttpConnection>& connection, uint64_t number)
      : connection_(connection), number_(number) {}

  ~Reply() override {
    const auto connection = connection_.lock();
    if (connection && Live()) connection->Close();
  }

  void AddHeader(std::string name, std::string value) override {
    if (Exchange* exchange = Live()) {
      exchange->headers.emplace_back(std::move(name), std::move(value));
    }
  }

  void Send(HttpResponse response) override {
    Exchange* exchange = Live();
    if (!exchange || exchange->started) return;
    for (auto& header : response.headers) exchange->headers.push_back(std::move(header));
    ResponseHead head = Head(response.status, response.content_type);
    head.content_length = static_cast<long long>(response.body.size());
    std::string bytes = SerializeHead(head, exchange->headers);
    if (exchange->method != "HEAD") bytes += response.body;
    connection()->Enqueue(bytes);
    Complete(response.status);
  }

  void StartStream(std::string content_type) override {
    Exchange* exchange = Live();
    if (!exchange || exchange->started) return;
    // Before HTTP/1.1 there are no chunks: the end of the connection ends the body.
    if (connection()->http10_) connection()->keep_alive_ = false;
    ResponseHead head = Head(200, content_type);
    head.chunked = !connection()->http10_;
    exchange->started = exchange->streaming = true;
    exchange->status = 200;
    connection()->Enqueue(SerializeHead(head, exchange->headers));
  }

  void Write(std::string_view bytes) override {
    Exchange* exchange = Live();
    if (!exchange || !exchange->streaming) return;
    if (connection()->http10_) return connection()->Enqueue(bytes);
    std::string chunk;
    AppendChunk(bytes, &chunk);
    connection()->Enqueue(chunk);
  }

  void End() override {
    Exchange* exchange = Live();
    if (!exchange || !exchange->streaming) return;
    if (!connection()->http10_) connection()->Enqueue(kLastChunk);
    if (Live()) Complete(200);
  }

  void OnDisconnect(std::function<void()> callback) override {
    Exchange* exchange = Live();
    if (exchange) {
      exchange->on_disconnect = std::move(callback);
    } else if (!completed_) {
      callback();
    }
  }

 private:
  // The exchange, while it can be written to.
  Exchange* Live() {
    const auto connection = connection_.lock();
    if (!connection || connection->closed_ || connection->num_exchanges_ != number_) return nullptr;
    Exchange* exchange = connection->exchange_.get();
    return exchange && !exchange->complete ? exchange : nullptr;
  }

  std::shared_ptr<HttpConnection> connection() const { return connection_.lock(); }

  ResponseHead Head(int status, std::string_view content_type) {
    if (connection()->shared_->draining) connection()->keep_alive_ = false;
    return {.status = status,
            .content_type = content_type,
            .keep_alive = connection()->keep_alive_,
            .http10 = connection()->http10_};
  }

  void Complete(int status) {
    completed_ = true;
    connection()->Finish(status);
  }

  std::weak_ptr<HttpConnection> connection_;  // kept alive by what it waits for
  uint64_t number_;
  bool completed_ = false;
};

HttpConnection::HttpConnection(std::shared_ptr<HttpShared> shared, asio::ip::tcp::socket socket)
    : shared_(std::move(shared)), socket_(std::move(socket)) {
  error_code error;
  socket_.set_option(asio::ip::tcp::no_delay(true), error);
  // Left alone, the kernel takes in megabytes for a client that does not read.
  socket_.set_option(asio::socket_base::send_buffer_size(kSendBuffer), error);
  const auto endpoint = socket_.remote_endpoint(error);
  if (!error) {
    peer_ = endpoint.address().to_string() + ":" + std::to_string(endpoint.port());
  }
  shared_->connections.insert(this);
}

HttpConnection::~HttpConnection() { shared_->connections.erase(this); }

void HttpConnection::Start() {
  BeginIdle();
  StartRead();
}

void HttpConnection::Advance() {
  // Each step that gets somewhere may be followed by the next: requests can come back to back.
  while (!closed_ && Step()) {
  }
  if (!closed_ && WantsInput()) StartRead();
}

bool HttpConnection::WantsInput() const {
  // While a reply is on its way the socket is read to notice a client that leaves; what an eager
  // one sends ahead is kept, up to a limit.
  return state_ != State::kReply || buffer_.size() < kReadAhead;
}

bool HttpConnection::Step() {
  switch (state_) {
    case State::kIdle:
      if (shared_->draining) return Close(), false;
      if (buffer_.size() == 0) return false;
      parser_.emplace();
      parser_->header_limit(static_cast<uint32_t>(shared_->config.max_header_size));
      parser_->body_limit(shared_->config.max_body_size);
      return Enter(State::kHead, shared_->config.header_timeout);
    case State::kHead:
      if (!Parse()) return false;
      keep_alive_ = parser_->keep_alive();
      http10_ = parser_->get().version() < 11;
      if (parser_->get()[http::field::expect] == "100-continue") {
        Enqueue("HTTP/1.1 100 Continue\r\n\r\n");
      }
      return Enter(State::kBody, shared_->config.body_timeout);
    case State::kBody:
      if (!parser_->is_done() && !Parse()) return false;
      state_ = State::kReply;
      ClearDeadline();
      Dispatch(ToRequest(parser_->release(), peer_));
      return true;
    case State::kReply:
      if (!exchange_->complete || !flushed()) return false;
      exchange_.reset();
      if (!keep_alive_ || shared_->draining) return Close(), false;
      return BeginIdle(), true;
    case State::kRefused:
      buffer_.clear();
      if (flushed() && !shut_) {
        shut_ = true;
        error_code error;
        socket_.shutdown(asio::ip::tcp::socket::shutdown_send, error);
        SetDeadline(kLinger);
      }
      return false;
  }
  return false;
}

bool HttpConnection::Enter(State state, std::chrono::milliseconds timeout) {
  state_ = state;
  SetDeadline(timeout);
  return true;
}

void HttpConnection::BeginIdle() {
  Enter(State::kIdle, shared_->config.keep_alive_timeout);
  parser_.reset();
}

// Takes what has come, until the state's part of the request is whole. False: more is to come, or
// the request was refused.
bool HttpConnection::Parse() {
  const auto whole = [this] {
    return state_ == State::kHead ? parser_->is_header_done() : parser_->is_done();
  };
  while (buffer_.size() > 0 && !whole()) {
    error_code error;
    const size_t used = parser_->put(asio::buffer(buffer_), error);
    buffer_.erase(0, used);
    if (error == http::error::need_more) return false;
    if (error) return Refuse(StatusOf(error), error.message()), false;
    if (used == 0) return false;
  }
  return whole();
}

// The client may still be sending its body: closing at once would reset the connection and lose the
// answer, so what comes is read and dropped for a while.
void HttpConnection::Refuse(int status, const std::string& message) {
  if (status == 0) return Close();
  state_ = State::kRefused;
  keep_alive_ = false;
  const HttpResponse response = shared_->callbacks.render_error(status, message);
  ResponseHead head{.status = status, .content_type = response.content_type, .keep_alive = false};
  head.content_length = static_cast<long long>(response.body.size());
  Enqueue(SerializeHead(head, response.headers) + response.body);
  shared_->callbacks.on_done({.method = "-", .path = "-", .peer = peer_, .status = status});
}

void HttpConnection::Dispatch(HttpRequest request) {
  exchange_ = std::make_unique<Exchange>();
  exchange_->method = request.method;
  exchange_->path = request.path;
  ++num_exchanges_;
  shared_->callbacks.handle(std::move(request),
                            std::make_shared<Reply>(shared_from_this(), num_exchanges_));
}

void HttpConnection::StartRead() {
  if (reading_ || closed_) return;
  reading_ = true;
  // Little while idle or waiting for a reply, more for a body. Not straight into buffer_, which may
  // be parsed while the read is under way.
  const bool little = state_ == State::kIdle || state_ == State::kReply;
  incoming_.resize(little ? kReadSize : 16 * kReadSize);
  if (little) incoming_.shrink_to_fit();
  socket_.async_read_some(asio::buffer(incoming_),
                          [self = shared_from_this()](error_code error, size_t got) {
                            self->reading_ = false;
                            if (error) return self->Close();
                            self->buffer_.append(self->incoming_, 0, got);
                            self->Advance();
                          });
}

void HttpConnection::Enqueue(std::string_view bytes) {
  if (closed_) return;
  pending_.append(bytes);
  const bool streaming = exchange_ && exchange_->streaming;
  if (streaming && pending_.size() > shared_->config.max_output_buffer) {
    LogWarning("{} does not read its reply: cut off with {} bytes unsent", peer_, pending_.size());
    return Close();
  }
  if (writing_) return;
  writing_ = true;
  SetDeadline(shared_->config.write_timeout);
  // Not at once: what else this turn of the loop has to say goes into the same packet.
  asio::post(shared_->io, [self = shared_from_this()] { self->WriteSome(); });
}

void HttpConnection::WriteSome() {
  if (closed_) return;
  if (sent_ == in_flight_.size()) {
    in_flight_.clear();
    in_flight_.swap(pending_);
    sent_ = 0;
  }
  socket_.async_write_some(asio::buffer(in_flight_.data() + sent_, in_flight_.size() - sent_),
                           [self = shared_from_this()](error_code error, size_t size) {
                             if (error) return self->Close();
                             self->sent_ += size;
                             if (self->sent_ < self->in_flight_.size() || !self->pending_.empty()) {
                               self->SetDeadline(self->shared_->config.write_timeout);
                               return self->WriteSome();
                             }
                             self->writing_ = false;
                             self->ClearDeadline();
                             self->Advance();
                           });
}

void HttpConnection::SetDeadline(std::chrono::milliseconds timeout) {
  deadline_ = Clock::now() + timeout;
}

void HttpConnection::Finish(int status) {
  exchange_->status = status;
  exchange_->started = exchange_->complete = true;
  exchange_->on_disconnect = nullptr;
  const double seconds = std::chrono::duration<double>(Clock::now() - exchange_->start).count();
  shared_->callbacks.on_done({exchange_->method, exchange_->path, peer_, status, seconds});
  // Not at once: the handler may be at work on this very exchange.
  asio::post(shared_->io, [self = shared_from_this()] { self->Advance(); });
}

void HttpConnection::Close() {
  if (closed_) return;
  closed_ = true;
  error_code error;
  socket_.close(error);
  if (exchange_ && !exchange_->complete) {
    auto callback = std::move(exchange_->on_disconnect);
    Finish(499);
    if (callback) callback();
  }
}

void HttpConnection::CloseIfIdle() {
  if (state_ == State::kIdle) Close();
}

void HttpConnection::CloseIfOverdue(Clock::time_point now) {
  if (now > deadline_) Close();
}

}  // namespace tangram::server
