#include "base/log.h"

#include <spdlog/pattern_formatter.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <cctype>
#include <memory>

namespace tangram {
namespace {

// The level in capitals, as operators grep it; spdlog's own flag has it in small letters.
class CapitalLevel final : public spdlog::custom_flag_formatter {
 public:
  void format(const spdlog::details::log_msg& message, const std::tm&,
              spdlog::memory_buf_t& out) override {
    for (char c : spdlog::level::to_string_view(message.level)) {
      out.push_back(static_cast<char>(std::toupper(c)));
    }
  }
  std::unique_ptr<custom_flag_formatter> clone() const override {
    return std::make_unique<CapitalLevel>();
  }
};

void SetFormat(spdlog::logger& logger) {
  auto formatter = std::make_unique<spdlog::pattern_formatter>();
  formatter->add_flag<CapitalLevel>('L').set_pattern("%L %m-%d %H:%M:%S %v");
  logger.set_formatter(std::move(formatter));
}

spdlog::logger& Logger() {
  static auto logger = [] {
    auto made = spdlog::stdout_logger_mt("tangram");
    SetFormat(*made);
    made->flush_on(spdlog::level::info);
    return made;
  }();
  return *logger;
}

spdlog::level::level_enum ToSpdlog(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug:
      return spdlog::level::debug;
    case LogLevel::kInfo:
      return spdlog::level::info;
    case LogLevel::kWarning:
      return spdlog::level::warn;
    case LogLevel::kError:
      return spdlog::level::err;
  }
  return spdlog::level::info;
}

}  // namespace

void Log(LogLevel level, std::string_view message) {
  Logger().log(ToSpdlog(level), fmt::string_view(message.data(), message.size()));
}

void LogToStderr() {
  Logger().sinks() = {std::make_shared<spdlog::sinks::stderr_sink_mt>()};
  SetFormat(Logger());
}

void SetLogLevel(LogLevel level) { Logger().set_level(ToSpdlog(level)); }

}  // namespace tangram
