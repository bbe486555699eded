// tangram bench: the measurements, with vLLM's names and definitions.

#include <fmt/format.h>

#include <string_view>

#include "bench/bench_commands.h"
#include "command.h"
#include "exit_codes.h"

namespace tangram::apps::bench {
namespace {

struct Measurement {
  std::string_view name, about;
  int (*run)(Args args);
};

constexpr Measurement kMeasurements[] = {
    {"serve", "many requests against a server", RunBenchServe},
    {"multi-turn", "conversations against a server", RunBenchMultiTurn},
    {"throughput", "many requests on the engine in this process", RunBenchThroughput},
    {"latency", "one batch on the engine in this process", RunBenchLatency},
};

}  // namespace

int RunBench(Args args) {
  const std::string name = args.empty() ? "" : args.front();
  for (const Measurement& measurement : kMeasurements) {
    if (measurement.name == name) return measurement.run(Args(args.begin() + 1, args.end()));
  }
  const std::vector<KernelMeasurement> kernels = KernelMeasurements();
  for (const KernelMeasurement& measurement : kernels) {
    if (measurement.name == name) return RunBenchKernels(name, Args(args.begin() + 1, args.end()));
  }
  const bool help = name == "--help" || name == "-h";
  std::FILE* to = help ? stdout : stderr;
  fmt::print(to, "Usage: tangram bench MEASUREMENT ...\n\n");
  for (const Measurement& measurement : kMeasurements) {
    fmt::print(to, "  {:<10} {}\n", measurement.name, measurement.about);
  }
  fmt::print(to, "\nKernels of the CUDA backend:\n\n");
  for (const KernelMeasurement& measurement : kernels) {
    fmt::print(to, "  {:<10} {}\n", measurement.name, measurement.about);
  }
  return help ? kExitOk : kExitUsage;
}

}  // namespace tangram::apps::bench
