#pragma once

#include <arpa/inet.h>
#include <sys/socket.h>
#include <unistd.h>

#include <functional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace tangram::testing {

// A server that answers each connection with scripted bytes: one reply a request (found by the
// blank line and Content-Length), sent piece by piece; then it closes the connection.
class FakeServer {
 public:
  using Pieces = std::vector<std::string>;

  // `connections[i]` are the replies of the i-th connection. `pause` returns when the next piece of
  // a reply is to be sent.
  explicit FakeServer(
      std::vector<std::vector<Pieces>> connections,
      std::function<void()> pause =
          [] { std::this_thread::sleep_for(std::chrono::milliseconds(20)); })
      : connections_(std::move(connections)), pause_(std::move(pause)) {
    listener_ = socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    auto* generic = reinterpret_cast<sockaddr*>(&address);
    bind(listener_, generic, size);
    listen(listener_, 8);
    getsockname(listener_, generic, &size);
    port_ = ntohs(address.sin_port);
    thread_ = std::thread([this] { Run(); });
  }
  ~FakeServer() {
    thread_.join();
    close(listener_);
  }

  std::string url() const { return "http://127.0.0.1:" + std::to_string(port_); }
  // What was received, request by request; after the scripted connections ended.
  const std::vector<std::string>& requests() const { return requests_; }

 private:
  void Run() {
    for (const auto& replies : connections_) {
      const int connection = accept(listener_, nullptr, nullptr);
      for (const Pieces& pieces : replies) {
        requests_.push_back(ReadRequest(connection));
        for (size_t i = 0; i < pieces.size(); ++i) {
          if (i > 0) pause_();
          send(connection, pieces[i].data(), pieces[i].size(), MSG_NOSIGNAL);
        }
      }
      close(connection);
    }
  }

  static std::string ReadRequest(int connection) {
    std::string text;
    char buffer[4096];
    while (!Complete(text)) {
      const ssize_t count = recv(connection, buffer, sizeof buffer, 0);
      if (count <= 0) break;
      text.append(buffer, static_cast<size_t>(count));
    }
    return text;
  }

  static bool Complete(const std::string& text) {
    const size_t end = text.find("\r\n\r\n");
    if (end == std::string::npos) return false;
    const size_t length = text.find("Content-Length: ");
    return length == std::string::npos ||
           text.size() >= end + 4 + std::stoul(text.substr(length + 16));
  }

  std::vector<std::vector<Pieces>> connections_;
  std::function<void()> pause_;
  int listener_ = -1, port_ = 0;
  std::vector<std::string> requests_;
  std::thread thread_;
};

}  // namespace tangram::testing
