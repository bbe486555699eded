#pragma once

#include "base/result.h"

namespace tangram::apps {

// What the process tells its supervisor. A unit file may restart on all but kUsage and
// kUnsupported, which no restart mends.
enum ExitCode : int {
  kExitOk = 0,           // done, or drained
  kExitFailure = 1,      // a client command whose server failed it
  kExitUsage = 2,        // flags, or an address that cannot be bound
  kExitUnsupported = 3,  // a model, config or file that cannot be served
  kExitMemory = 4,
  kExitLoad = 5,     // a file that is missing, or cannot be read or written
  kExitEngine = 70,  // the engine died
};

inline ExitCode ExitCodeFor(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::kInvalidArgument:
    case ErrorKind::kNotFound:
      return kExitUsage;
    case ErrorKind::kUnsupported:
      return kExitUnsupported;
    case ErrorKind::kOutOfMemory:
      return kExitMemory;
    case ErrorKind::kLoad:
      return kExitLoad;
    case ErrorKind::kUnavailable:
      return kExitFailure;
    case ErrorKind::kInternal:
      return kExitEngine;
  }
  return kExitEngine;
}

}  // namespace tangram::apps
