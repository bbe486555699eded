#pragma once

#include <string>
#include <string_view>

#include "base/result.h"
#include "server/http_server.h"

namespace tangram::server {

int HttpStatusOf(ErrorKind kind);

// {"error": {"message", "type", "param", "code"}}: the body that OpenAI clients read.
std::string ErrorBody(int status, std::string_view message, std::string_view param = {});

// 503 comes with Retry-After, so that clients and proxies come back.
HttpResponse ErrorResponse(int status, std::string_view message, std::string_view param = {});
HttpResponse ErrorResponse(const Error& error);

}  // namespace tangram::server
