#pragma once

#include <compare>
#include <string>
#include <vector>

#include "base/result.h"

namespace tangram::apps::eval {

// What was run. Ratio 1 stands for the full cache, whatever the scorer.
struct EvalSetting {
  std::string source = "tangram";  // or another program's name
  std::string scorer = "full", level = "-";
  double ratio = 1;
  int length = 0;  // tokens of a context; 0: the user's conversations
  int chunk = 0, window = 0;
  bool later = true;

  auto operator<=>(const EvalSetting&) const = default;
  bool full() const { return ratio >= 1; }
};

// One context at one setting: a line of --json.
struct EvalRecord {
  EvalSetting setting;
  std::string task;
  int context = 0;
  double loss = 0;  // mean over num_scored tokens
  int num_scored = 0;
  std::vector<double> scores;  // of each question, the share of what it expects, [0, 1]
  std::vector<std::string> answers;
  double agreement = 1;  // share of answer tokens (without questions: of the likeliest at the
                         // scored tokens) equal to the full cache's
  double memory = 1, memory_mean = 1;  // resident share at a boundary, and averaged over a chunk
};

std::string ToJson(const EvalRecord& record);
// Reads lines of ToJson. kInvalidArgument, naming file and line, for others.
Result<std::vector<EvalRecord>> ReadRecords(const std::string& path);

}  // namespace tangram::apps::eval
