#pragma once

#include <fmt/format.h>

#include <string>
#include <string_view>

namespace tangram {

enum class LogLevel { kDebug, kInfo, kWarning, kError };

// Lines go to stdout as `INFO 07-23 13:56:04 message`, the format that operators of vLLM grep.
// Thread safe.
void Log(LogLevel level, std::string_view message);
// From now on to stderr: stdout is for what the program was asked for. Before the first thread.
void LogToStderr();
// Lines below `level` are dropped. Default: kInfo.
void SetLogLevel(LogLevel level);

template <class... Args>
void LogDebug(fmt::format_string<Args...> format, Args&&... args) {
  Log(LogLevel::kDebug, fmt::format(format, std::forward<Args>(args)...));
}
template <class... Args>
void LogInfo(fmt::format_string<Args...> format, Args&&... args) {
  Log(LogLevel::kInfo, fmt::format(format, std::forward<Args>(args)...));
}
template <class... Args>
void LogWarning(fmt::format_string<Args...> format, Args&&... args) {
  Log(LogLevel::kWarning, fmt::format(format, std::forward<Args>(args)...));
}
template <class... Args>
void LogError(fmt::format_string<Args...> format, Args&&... args) {
  Log(LogLevel::kError, fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace tangram
