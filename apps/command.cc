#include "command.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>

#include "base/log.h"
#include "exit_codes.h"
#include "text/utf8.h"

namespace tangram::apps {
namespace {

// One line of UTF-8 that steers no terminal, whatever names a hostile file brings.
std::string Printable(std::string_view message) {
  constexpr size_t kMost = 8192;
  Utf8Reader reader;
  std::string line = reader.Push(message.substr(0, kMost)) + reader.Finish();
  std::ranges::replace_if(
      line, [](unsigned char c) { return c < ' ' || c == 127; }, ' ');
  return line + (message.size() > kMost ? " ..." : "");
}

}  // namespace

std::optional<int> ParseOrExit(Options& options, Args args) {
  if (auto status = options.Parse(std::move(args)); !status) return Fail(status.error());
  if (options.help_wanted()) {
    fmt::print("{}", options.Help());
    return kExitOk;
  }
  for (const std::string& warning : options.warnings()) LogWarning("{}", warning);
  return std::nullopt;
}

int Fail(const Error& error) {
  std::fflush(stdout);
  fmt::print(stderr, "error: {}\n", Printable(error.message));
  return ExitCodeFor(error.kind);
}

}  // namespace tangram::apps
