#pragma once

#include <string>
#include <tl/expected.hpp>
#include <utility>

namespace tangram {

// What a failure means to whoever is told of it. The server maps kinds to HTTP statuses, the
// command line to exit codes (apps/exit_codes.h).
enum class ErrorKind {
  kInvalidArgument,  // bad input: 400, exit 2
  kNotFound,         // 404
  kUnsupported,      // a model, config or file that cannot be served: exit 3
  kOutOfMemory,      // exit 4
  kLoad,             // a file that is missing, or cannot be read or written: exit 5
  kUnavailable,      // full or shutting down: 503
  kInternal,         // 500, exit 70
};

// A failure told to a person: what was wrong, where, and what to do. `param` names the request
// field or the option at fault, if there is one, as JSON spells it: max_num_seqs.
struct Error {
  ErrorKind kind = ErrorKind::kInternal;
  std::string message;
  std::string param;
};

template <class T>
using Result = tl::expected<T, Error>;
using Status = Result<void>;

inline tl::unexpected<Error> MakeError(ErrorKind kind, std::string message,
                                       std::string param = {}) {
  return tl::unexpected<Error>(Error{kind, std::move(message), std::move(param)});
}

// Leaves the function with the error, if `expr` (a Status) is one.
#define TANGRAM_RETURN_IF_ERROR(expr)                                      \
  do {                                                                     \
    if (auto status_ = (expr); !status_) {                                 \
      return tl::unexpected<::tangram::Error>(std::move(status_.error())); \
    }                                                                      \
  } while (false)

#define TANGRAM_CONCAT_INNER_(a, b) a##b
#define TANGRAM_CONCAT_(a, b) TANGRAM_CONCAT_INNER_(a, b)

// `TANGRAM_ASSIGN_OR_RETURN(auto x, F())`: x = *F(), or leaves the function with the error.
#define TANGRAM_ASSIGN_OR_RETURN(decl, expr) \
  TANGRAM_ASSIGN_OR_RETURN_(TANGRAM_CONCAT_(result_, __LINE__), decl, expr)
#define TANGRAM_ASSIGN_OR_RETURN_(tmp, decl, expr)                           \
  auto tmp = (expr);                                                         \
  if (!tmp) return tl::unexpected<::tangram::Error>(std::move(tmp.error())); \
  decl = std::move(*tmp)

}  // namespace tangram
