#pragma once

#include <fmt/format.h>

#include <string_view>

namespace tangram {

// Prints the failed condition with its values, and aborts. For programmers' bugs only: bad user
// input is a Result.
[[noreturn]] void CheckFailed(const char* file, int line, const char* condition,
                              std::string_view message);

#define TANGRAM_CHECK(condition, ...)                                                        \
  do {                                                                                       \
    if (!(condition)) [[unlikely]] {                                                         \
      ::tangram::CheckFailed(__FILE__, __LINE__, #condition, ::fmt::format("" __VA_ARGS__)); \
    }                                                                                        \
  } while (false)

}  // namespace tangram
