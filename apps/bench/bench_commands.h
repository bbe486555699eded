#pragma once

#include "command.h"

namespace tangram::apps::bench {

int RunBenchServe(Args args);
int RunBenchMultiTurn(Args args);
int RunBenchThroughput(Args args);
int RunBenchLatency(Args args);

// The measurements of the CUDA backend's kernels, each with its arguments and what it measures. In
// a build without CUDA the main ones, which then say how to get it.
struct KernelMeasurement {
  std::string name, about;
};
std::vector<KernelMeasurement> KernelMeasurements();
// `name`: one of them.
int RunBenchKernels(const std::string& name, const Args& args);

}  // namespace tangram::apps::bench
