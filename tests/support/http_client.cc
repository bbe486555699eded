#include "support/http_client.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

namespace tangram::testing {

HttpClient::HttpClient(int port, int receive_buffer) {
  fd_ = socket(AF_INET, SOCK_STREAM, 0);
  if (receive_buffer > 0) {
    setsockopt(fd_, SOL_SOCKET, SO_RCVBUF, &receive_buffer, sizeof receive_buffer);
  }
  timeval timeout{.tv_sec = 60};
  setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) Close();
}

HttpClient::~HttpClient() { Close(); }

void HttpClient::Close() {
  if (fd_ >= 0) close(fd_);
  fd_ = -1;
}

bool HttpClient::Send(std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t sent = send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (sent <= 0) return false;
    bytes.remove_prefix(static_cast<size_t>(sent));
  }
  return true;
}

bool HttpClient::Fill() {
  char piece[16384];
  const ssize_t size = recv(fd_, piece, sizeof piece, 0);
  if (size <= 0) return false;
  buffer_.append(piece, static_cast<size_t>(size));
  return true;
}

std::string HttpClient::Read(size_t size) {
  if (buffer_.empty()) Fill();
  const std::string out = buffer_.substr(0, size);
  buffer_.erase(0, out.size());
  return out;
}

bool HttpClient::Ended() {
  char byte;
  const ssize_t size = buffer_.empty() ? recv(fd_, &byte, 1, MSG_PEEK) : 1;
  return size == 0 || (size < 0 && errno == ECONNRESET);
}

bool HttpClient::ReadUntil(std::string_view text) {
  size_t at = 0;
  while ((at = buffer_.find(text)) == std::string::npos) {
    if (!Fill()) return false;
  }
  buffer_.erase(0, at + text.size());
  return true;
}

std::string PostText(std::string_view path, std::string_view body) {
  return fmt::format(
      "POST {} HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n"
      "Content-Length: {}\r\n\r\n{}",
      path, body.size(), body);
}

HttpResult HttpClient::Post(std::string_view path, std::string_view body) {
  return Send(PostText(path, body)) ? ReadResponse() : HttpResult{};
}

HttpResult HttpClient::Request(std::string_view method, std::string_view path,
                               std::string_view body,
                               const std::map<std::string, std::string>& headers) {
  std::string text = fmt::format("{} {} HTTP/1.1\r\nHost: test\r\n", method, path);
  for (const auto& [name, value] : headers) text += fmt::format("{}: {}\r\n", name, value);
  if (!body.empty()) text += fmt::format("Content-Length: {}\r\n", body.size());
  text += "\r\n";
  text += body;
  return Send(text) ? ReadResponse(method == "HEAD") : HttpResult{};
}

HttpResult HttpClient::ReadResponse(bool head) {
  HttpResult result;
  size_t end = 0;
  while ((end = buffer_.find("\r\n\r\n")) == std::string::npos) {
    if (!Fill()) return result;
  }
  std::string text = buffer_.substr(0, end + 2);
  buffer_.erase(0, end + 4);
  result.status = std::stoi(text.substr(9, 3));
  for (size_t at = text.find("\r\n") + 2; at < text.size();) {
    const size_t line_end = text.find("\r\n", at), colon = text.find(": ", at);
    std::string name = text.substr(at, colon - at);
    std::ranges::transform(name, name.begin(), [](unsigned char c) { return std::tolower(c); });
    result.headers[name] = text.substr(colon + 2, line_end - colon - 2);
    at = line_end + 2;
  }
  if (head) return result;
  if (result.headers.contains("content-length")) {
    const size_t size = std::stoul(result.headers["content-length"]);
    while (buffer_.size() < size && Fill()) {
    }
    result.body = buffer_.substr(0, size);
    buffer_.erase(0, size);
  } else if (result.headers.contains("transfer-encoding")) {
    while (true) {
      size_t line = 0;
      while ((line = buffer_.find("\r\n")) == std::string::npos) {
        if (!Fill()) return result;
      }
      const size_t size = std::stoul(buffer_.substr(0, line), nullptr, 16);
      while (buffer_.size() < line + 2 + size + 2) {
        if (!Fill()) return result;
      }
      result.body += buffer_.substr(line + 2, size);
      buffer_.erase(0, line + 2 + size + 2);
      if (size == 0) break;
    }
  } else if (result.status != 204) {
    while (Fill()) {
    }
    result.body = std::exchange(buffer_, {});
  }
  return result;
}

}  // namespace tangram::testing
