#include "server/error_response.h"

#include "server/json_fields.h"

namespace tangram::server {
namespace {

std::string_view TypeOf(int status) {
  switch (status) {
    case 400:
      return "BadRequestError";
    case 401:
      return "AuthenticationError";
    case 404:
      return "NotFoundError";
    case 405:
      return "MethodNotAllowedError";
    case 413:
      return "RequestTooLargeError";
    case 431:
      return "HeadersTooLargeError";
    case 503:
      return "ServiceUnavailableError";
    default:
      return "InternalServerError";
  }
}

}  // namespace

int HttpStatusOf(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::kInvalidArgument:
    case ErrorKind::kUnsupported:
      return 400;
    case ErrorKind::kNotFound:
      return 404;
    case ErrorKind::kUnavailable:
    case ErrorKind::kOutOfMemory:
      return 503;
    default:
      return 500;
  }
}

std::string ErrorBody(int status, std::string_view message, std::string_view param) {
  const Json error = {{"message", message},
                      {"type", TypeOf(status)},
                      {"param", param.empty() ? Json() : Json(param)},
                      {"code", status}};
  return DumpJson({{"error", error}});
}

HttpResponse ErrorResponse(int status, std::string_view message, std::string_view param) {
  HttpResponse response{.status = status, .body = ErrorBody(status, message, param)};
  if (status == 503) response.headers.emplace_back("Retry-After", "1");
  if (status == 401) response.headers.emplace_back("WWW-Authenticate", "Bearer");
  return response;
}

HttpResponse ErrorResponse(const Error& error) {
  return ErrorResponse(HttpStatusOf(error.kind), error.message, error.param);
}

}  // namespace tangram::server
