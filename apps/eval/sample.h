#pragma once

#include <string>
#include <vector>

#include "calibration/evaluation.h"

namespace tangram::apps::eval {

// A test: what the model reads, and what its answers should hold.
struct EvalSample {
  std::string task;
  int context = 0;  // number within the task
  std::vector<EvalStep> steps;
  std::vector<std::vector<std::string>> expected;  // of each kAsk, in order
};

}  // namespace tangram::apps::eval
