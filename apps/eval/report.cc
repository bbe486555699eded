#include "eval/report.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <tuple>

namespace tangram::apps::eval {
namespace {

double MeanOf(const std::vector<double>& values) {
  double sum = 0;
  for (const double value : values) sum += value;
  return values.empty() ? 0 : sum / static_cast<double>(values.size());
}

// What a context is called among all records of one source.
using ContextKey = std::tuple<std::string, int, bool, std::string, int>;

ContextKey KeyOf(const EvalRecord& r) {
  return {r.setting.source, r.setting.length, r.setting.later, r.task, r.context};
}

EvalRow MakeRow(std::span<const EvalRecord* const> records,
                const std::map<ContextKey, const EvalRecord*>& full) {
  EvalRow row{.task = records.front()->task, .setting = records.front()->setting};
  std::vector<double> loss, increase, score, difference, agreement;
  for (const EvalRecord* r : records) {
    ++row.contexts;
    row.questions += static_cast<int>(r->scores.size());
    row.scored += r->num_scored;
    if (r->num_scored > 0) loss.push_back(r->loss);
    if (!r->scores.empty()) score.push_back(MeanOf(r->scores));
    agreement.push_back(r->agreement);
    row.memory = r->memory;
    row.memory_mean = r->memory_mean;
    const auto it = full.find(KeyOf(*r));
    if (it == full.end()) continue;
    if (r->num_scored > 0) increase.push_back(r->loss - it->second->loss);
    if (!r->scores.empty()) difference.push_back(score.back() - MeanOf(it->second->scores));
  }
  row.loss = BootstrapMean(loss);
  row.loss_increase = BootstrapMean(increase);
  row.score = BootstrapMean(score);
  row.score_difference = BootstrapMean(difference);
  row.agreement = BootstrapMean(agreement);
  return row;
}

std::string Signed(const Interval& i, int digits) {
  if (i.count == 0) return "-";
  if (i.count == 1) return fmt::format("{:+.{}f}", i.mean, digits);
  return fmt::format("{:+.{}f} ({:+.{}f} to {:+.{}f})", i.mean, digits, i.low, digits, i.high,
                     digits);
}

std::string Scorer(const EvalSetting& s) {
  return s.source == "tangram" ? s.scorer : s.source + " " + s.scorer;
}

// Which columns a table has.
struct Columns {
  bool loss = false, questions = false;
  bool contexts = false;  // rows differ in how many they have, as merged files may
};

std::string FormatRow(const EvalRow& row, const Columns& columns) {
  const EvalSetting& s = row.setting;
  std::string line = fmt::format("| {:g} | {} | {} | {:.3f}, {:.3f} |", s.ratio, Scorer(s), s.level,
                                 row.memory, row.memory_mean);
  if (columns.contexts) line += fmt::format(" {} |", row.contexts);
  if (columns.loss) {
    line += s.full() ? fmt::format(" {:.3f} |", row.loss.mean)
                     : fmt::format(" {} |", Signed(row.loss_increase, 3));
  }
  if (columns.questions) {
    line += fmt::format(" {:.2f} |", row.score.mean);
    line += s.full() ? " |" : fmt::format(" {} |", Signed(row.score_difference, 2));
  }
  return line + fmt::format(" {:.2f} |\n", row.agreement.mean);
}

std::string FormatHeading(const EvalRow& first, const Columns& columns) {
  const EvalSetting& s = first.setting;
  std::string text = s.length > 0 ? fmt::format("**{}**, {} tokens", first.task, s.length)
                                  : fmt::format("**{}**", first.task);
  // The counts are the first row's: where rows differ, the table has a column of contexts.
  text += fmt::format("; {} context{}", first.contexts, first.contexts == 1 ? "" : "s");
  if (columns.loss) text += fmt::format(", {} tokens scored", first.scored);
  if (columns.questions) {
    text += fmt::format(", {} questions {}", first.questions,
                        s.later ? "in later turns" : "in the prompt");
  }
  std::string titles = "| kept | scorer | level | memory at a boundary, mean |";
  if (columns.contexts) titles += " contexts |";
  if (columns.loss) titles += " loss increase (full: loss) |";
  if (columns.questions) titles += " score | difference |";
  titles += " agreement |\n";
  std::string rule = "|";
  for (auto left = std::ranges::count(titles, '|') - 1; left > 0; --left) rule += "---|";
  return text + "\n\n" + titles + rule + "\n";
}

auto TableOf(const EvalRow& row) {
  return std::tuple(row.task, row.setting.length, row.setting.later);
}

}  // namespace

std::vector<EvalRow> Summarise(std::span<const EvalRecord> records) {
  std::map<ContextKey, const EvalRecord*> full;
  std::map<std::pair<std::string, EvalSetting>, std::vector<const EvalRecord*>> groups;
  for (const EvalRecord& r : records) {
    if (r.setting.full()) full[KeyOf(r)] = &r;
    groups[{r.task, r.setting}].push_back(&r);
  }
  std::vector<EvalRow> rows;
  for (auto& [key, group] : groups) {
    // Records come in any order, and the full cache's in each of several files; the means and
    // intervals are always the same.
    std::ranges::stable_sort(group, {}, &EvalRecord::context);
    const auto repeated = std::ranges::unique(group, {}, &EvalRecord::context);
    group.erase(repeated.begin(), repeated.end());
    rows.push_back(MakeRow(group, full));
  }
  std::ranges::stable_sort(rows, [](const EvalRow& a, const EvalRow& b) {
    return std::tuple(TableOf(a), -a.setting.ratio, -a.score.mean, a.loss_increase.mean) <
           std::tuple(TableOf(b), -b.setting.ratio, -b.score.mean, b.loss_increase.mean);
  });
  return rows;
}

std::string FormatTables(std::span<const EvalRow> rows) {
  std::string text;
  for (size_t begin = 0, end = 0; begin < rows.size(); begin = end) {
    Columns columns;
    for (; end < rows.size() && TableOf(rows[end]) == TableOf(rows[begin]); ++end) {
      columns.loss |= rows[end].scored > 0;
      columns.questions |= rows[end].questions > 0;
      columns.contexts |= rows[end].contexts != rows[begin].contexts;
    }
    if (begin > 0) text += "\n";
    text += FormatHeading(rows[begin], columns);
    for (size_t i = begin; i < end; ++i) text += FormatRow(rows[i], columns);
  }
  return text;
}

}  // namespace tangram::apps::eval
