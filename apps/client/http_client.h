#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "base/result.h"
#include "client/url.h"

namespace tangram::apps::client {

struct HttpReply {
  int status = 0;
  std::string body;  // empty if it was told as events
};

// A blocking HTTP/1.1 client of one server, with one connection that is kept. One thread at a time.
class HttpClient {
 public:
  // `api_key`, if not empty, goes along as a bearer token.
  HttpClient(Url url, std::string api_key);
  ~HttpClient();

  // kUnavailable if the server cannot be reached or breaks off; any status is a reply.
  Result<HttpReply> Get(const std::string& path);
  Result<HttpReply> Post(const std::string& path, const std::string& body);

  // Told each `data:` payload of an event stream; false ends the connection and the call.
  using OnData = std::function<bool(std::string_view)>;
  Result<HttpReply> PostForEvents(const std::string& path, const std::string& body,
                                  const OnData& on_data);

 private:
  class Connection;
  Result<HttpReply> Exchange(const std::string& path, const std::string* body,
                             const OnData& on_data);

  Url url_;
  std::string api_key_;
  std::unique_ptr<Connection> connection_;
};

}  // namespace tangram::apps::client
