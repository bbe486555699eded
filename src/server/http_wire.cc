#include "server/http_wire.h"

#include <fmt/format.h>

namespace tangram::server {
namespace {

void AppendHeader(std::string_view name, std::string_view value, std::string* out) {
  out->append(name).append(": ");
  for (const char c : value) {
    if (static_cast<unsigned char>(c) >= 0x20 && c != 0x7f) out->push_back(c);
  }
  out->append("\r\n");
}

}  // namespace

std::string_view HttpRequest::Header(std::string_view name) const {
  for (const auto& [key, value] : headers) {
    if (key == name) return value;
  }
  return {};
}

std::string_view HttpReason(int status) {
  switch (status) {
    case 200:
      return "OK";
    case 204:
      return "No Content";
    case 400:
      return "Bad Request";
    case 401:
      return "Unauthorized";
    case 403:
      return "Forbidden";
    case 404:
      return "Not Found";
    case 405:
      return "Method Not Allowed";
    case 408:
      return "Request Timeout";
    case 413:
      return "Content Too Large";
    case 431:
      return "Request Header Fields Too Large";
    case 500:
      return "Internal Server Error";
    case 503:
      return "Service Unavailable";
    default:
      return "Status";
  }
}

std::string SerializeHead(const ResponseHead& head, const HttpHeaders& extra) {
  std::string out = fmt::format("HTTP/1.1 {} {}\r\n", head.status, HttpReason(head.status));
  if (!head.content_type.empty()) AppendHeader("Content-Type", head.content_type, &out);
  if (head.content_length >= 0) {
    AppendHeader("Content-Length", std::to_string(head.content_length), &out);
  }
  if (head.chunked) AppendHeader("Transfer-Encoding", "chunked", &out);
  if (!head.keep_alive) {
    AppendHeader("Connection", "close", &out);
  } else if (head.http10) {
    AppendHeader("Connection", "keep-alive", &out);
  }
  for (const auto& [name, value] : extra) AppendHeader(name, value, &out);
  out.append("\r\n");
  return out;
}

void AppendChunk(std::string_view bytes, std::string* out) {
  if (bytes.empty()) return;
  fmt::format_to(std::back_inserter(*out), "{:x}\r\n", bytes.size());
  out->append(bytes).append("\r\n");
}

}  // namespace tangram::server
