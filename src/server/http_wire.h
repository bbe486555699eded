#pragma once

#include <string>
#include <string_view>

#include "server/http_server.h"

namespace tangram::server {

// "Not Found" for 404.
std::string_view HttpReason(int status);

struct ResponseHead {
  int status = 200;
  std::string_view content_type;
  long long content_length = -1;  // -1: unknown
  bool chunked = false;
  bool keep_alive = true;
  bool http10 = false;
};

// The head of a response, ending in the empty line. Control characters in values are dropped, so
// that no value can start a header of its own.
std::string SerializeHead(const ResponseHead& head, const HttpHeaders& extra);

// Appends `bytes` as one chunk of Transfer-Encoding: chunked (RFC 9112, 7.1). Empty bytes add
// nothing, since an empty chunk would end the body.
void AppendChunk(std::string_view bytes, std::string* out);
inline constexpr std::string_view kLastChunk = "0\r\n\r\n";

}  // namespace tangram::server
