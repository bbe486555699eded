// tangram COMMAND ...: one program for the server, its clients and its measurements.

#include <fmt/format.h>

#include <new>
#include <string_view>

#include "base/log.h"
#include "command.h"
#include "exit_codes.h"

namespace {

struct Command {
  std::string_view name, about;
  int (*run)(tangram::Args args);
};

constexpr Command kCommands[] = {
    {"serve", "serve a model through the OpenAI API", tangram::RunServe},
    {"chat", "talk with a server in the terminal", tangram::RunChat},
    {"generate", "continue a prompt in this process, without a server", tangram::RunGenerate},
    {"calibrate", "learn what a model's KV cache can do without", tangram::RunCalibrate},
    {"inspect", "show what compression makes of a model's KV cache", tangram::RunInspect},
    {"eval", "measure what compression costs a model", tangram::RunEval},
    {"bench", "measure a server or the engine", tangram::RunBench},
};

void PrintUsage(std::FILE* to) {
  fmt::print(to, "Usage: tangram COMMAND ...\n\n");
  for (const Command& command : kCommands) {
    fmt::print(to, "  {:<10} {}\n", command.name, command.about);
  }
  fmt::print(
      to,
      "\ntangram COMMAND --help shows the flags of a command, tangram --version the version.\n");
}

}  // namespace

int main(int argc, char** argv) {
  const std::string_view name = argc > 1 ? argv[1] : "";
  for (const Command& command : kCommands) {
    if (command.name != name) continue;
    if (name != "serve") tangram::LogToStderr();
    try {
      return command.run(tangram::Args(argv + 2, argv + argc));
    } catch (const std::bad_alloc&) {
      fmt::print(stderr, "error: not enough memory\n");
      return tangram::kExitMemory;
    }
  }
  if (name == "--version" || name == "version") {
    fmt::print("tangram {}\n", TANGRAM_VERSION);
    return tangram::kExitOk;
  }
  const bool help = name == "--help" || name == "-h" || name == "help";
  if (!help && !name.empty()) fmt::print(stderr, "error: unknown command '{}'\n", name);
  PrintUsage(help ? stdout : stderr);
  return help ? tangram::kExitOk : tangram::kExitUsage;
}
