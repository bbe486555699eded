// tangram COMMAND ...: one program for the server, its clients and its measurements.

#include <fmt/format.h>

#include <new>
#include <string_view>

#include "base/log.h"
#include "command.h"
#include "exit_codes.h"
#include "version.h"

namespace tangram::apps {
namespace {

struct Command {
  std::string_view name, about;
  int (*run)(Args args);
};

constexpr Command kCommands[] = {
    {"serve", "serve a model through the OpenAI API", RunServe},
    {"chat", "talk with a server in the terminal", RunChat},
    {"generate", "continue a prompt in this process, without a server", RunGenerate},
    {"calibrate", "learn what a model's KV cache can do without", RunCalibrate},
    {"inspect", "show what compression makes of a model's KV cache", inspect::RunInspect},
    {"eval", "measure what compression costs a model", eval::RunEval},
    {"bench", "measure a server or the engine", bench::RunBench},
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

int Main(int argc, char** argv) {
  const std::string_view name = argc > 1 ? argv[1] : "";
  for (const Command& command : kCommands) {
    if (command.name != name) continue;
    if (name != "serve") LogToStderr();
    try {
      return command.run(Args(argv + 2, argv + argc));
    } catch (const std::bad_alloc&) {
      fmt::print(stderr, "error: not enough memory\n");
      return kExitMemory;
    }
  }
  if (name == "--version" || name == "version") {
    fmt::print("{}", VersionText());
    return kExitOk;
  }
  const bool help = name == "--help" || name == "-h" || name == "help";
  if (!help && !name.empty()) fmt::print(stderr, "error: unknown command '{}'\n", name);
  PrintUsage(help ? stdout : stderr);
  return help ? kExitOk : kExitUsage;
}

}  // namespace
}  // namespace tangram::apps

int main(int argc, char** argv) { return tangram::apps::Main(argc, argv); }
