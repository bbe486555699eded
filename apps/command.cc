#include "command.h"

#include <fmt/format.h>

#include <cstdio>

#include "base/log.h"
#include "exit_codes.h"

namespace tangram {

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
  fmt::print(stderr, "error: {}\n", error.message);
  return ExitCodeFor(error.kind);
}

}  // namespace tangram
