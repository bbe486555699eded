#pragma once

#include <span>
#include <string>
#include <vector>

#include "eval/interval.h"
#include "eval/records.h"

namespace tangram::apps::eval {

// All contexts of one task at one setting, paired with the full cache's.
struct EvalRow {
  std::string task;
  EvalSetting setting;
  int contexts = 0, questions = 0, scored = 0;
  Interval loss, score;                      // of this setting
  Interval loss_increase, score_difference;  // paired by context; 0 without a full record
  Interval agreement;
  double memory = 1, memory_mean = 1;
};

// One row for each task and setting: by task and length, from the fullest cache to the smallest,
// best task score first. Contexts without a record of the full cache (of the same source) count
// for the setting's own values alone.
std::vector<EvalRow> Summarise(std::span<const EvalRecord> records);

// The rows as tables in Markdown, one for each task and length.
std::string FormatTables(std::span<const EvalRow> rows);

// Task score and loss increase against memory, as an SVG picture; one line for each source, scorer
// and level, over all tasks in `rows`.
std::string DrawPlot(std::span<const EvalRow> rows);

}  // namespace tangram::apps::eval
