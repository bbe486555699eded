#pragma once

#include <map>
#include <string>
#include <string_view>

namespace tangram::testing {

struct HttpResult {
  int status = 0;                              // 0: the connection ended without an answer
  std::map<std::string, std::string> headers;  // names in lower case
  std::string body;                            // without the chunks' marks
};

// A blocking HTTP client on a plain socket, which also misbehaves on demand.
class HttpClient {
 public:
  explicit HttpClient(int port, int receive_buffer = 0);
  ~HttpClient();
  HttpClient(const HttpClient&) = delete;
  HttpClient& operator=(const HttpClient&) = delete;

  bool connected() const { return fd_ >= 0; }
  bool Send(std::string_view bytes);
  HttpResult Request(std::string_view method, std::string_view path, std::string_view body = {},
                     const std::map<std::string, std::string>& headers = {});
  HttpResult Post(std::string_view path, std::string_view body);
  HttpResult ReadResponse(bool head = false);
  // What comes next, up to `size` bytes; empty at the end, or after a minute.
  std::string Read(size_t size);
  // Whether nothing more comes because the server has closed the connection; false if something
  // comes, or nothing happens for a minute.
  bool Ended();
  // Reads until `text` has come; false if the connection ends first.
  bool ReadUntil(std::string_view text);
  void Close();

 private:
  bool Fill();

  int fd_ = -1;
  std::string buffer_;
};

std::string PostText(std::string_view path, std::string_view body);

}  // namespace tangram::testing
