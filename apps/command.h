#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/options.h"

namespace tangram::apps {

using Args = std::vector<std::string>;

// The commands. Each reads its own arguments and returns an exit code (exit_codes.h).
int RunServe(Args args);
int RunChat(Args args);
int RunGenerate(Args args);
int RunCalibrate(Args args);
namespace bench {
int RunBench(Args args);
}
namespace eval {
int RunEval(Args args);
}
namespace inspect {
int RunInspect(Args args);
}

// Parses, and answers --help and mistakes: what is returned, if anything, is the exit code to leave
// with.
std::optional<int> ParseOrExit(Options& options, Args args);

// Prints "error: ..." for a person, and gives the exit code.
int Fail(const Error& error);

}  // namespace tangram::apps
