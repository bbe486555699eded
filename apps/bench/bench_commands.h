#pragma once

#include "command.h"

namespace tangram {

int RunBenchServe(Args args);
int RunBenchMultiTurn(Args args);
int RunBenchThroughput(Args args);
int RunBenchLatency(Args args);

}  // namespace tangram
