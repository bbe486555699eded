#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <string>
#include <vector>

#include "eval/report.h"

namespace tangram::apps::eval {
namespace {

constexpr double kWidth = 360, kHeight = 260, kLeft = 60, kTop = 40, kGap = 90;
constexpr const char* kColours[] = {"#1b6ca8", "#c0392b", "#27803b", "#8e44ad", "#b9770e",
                                    "#16807c", "#5d6d7e", "#d35493", "#7f5539", "#000000"};

struct Point {
  double memory, value;
};
using Line = std::vector<Point>;
using Lines = std::map<std::string, Line>;  // by name

// Means over tasks, so that a line has one value at each memory.
Lines Collect(std::span<const EvalRow> rows, bool scores) {
  std::map<std::string, std::map<double, std::vector<double>>> values;
  for (const EvalRow& row : rows) {
    if (row.setting.full() || (scores ? row.questions : row.scored) == 0) continue;
    const EvalSetting& s = row.setting;
    std::string name = s.source == "tangram" ? s.scorer : s.source + " " + s.scorer;
    if (s.level != "-") name += ", " + s.level;
    values[name][row.memory].push_back(scores ? row.score.mean : row.loss_increase.mean);
  }
  Lines lines;
  for (const auto& [name, points] : values) {
    for (const auto& [memory, all] : points) {
      double sum = 0;
      for (const double value : all) sum += value;
      lines[name].push_back({memory, sum / static_cast<double>(all.size())});
    }
  }
  return lines;
}

const char* ColourOf(const std::map<std::string, size_t>& numbers, const std::string& name) {
  return kColours[numbers.at(name) % std::size(kColours)];
}

// Dashes tell apart those that share a colour.
std::string DashOf(const std::map<std::string, size_t>& numbers, const std::string& name) {
  const size_t round = numbers.at(name) / std::size(kColours);
  return round == 0 ? "" : fmt::format(" stroke-dasharray=\"{} 3\"", 9 / round);
}

// Between two lines of the grid: a fifth, half or twice a power of ten, at most six to a range.
double GridStep(double range) {
  const double power = std::pow(10, std::floor(std::log10(range)));
  for (const double step : {0.2, 0.5}) {
    if (range <= 6 * step * power) return step * power;
  }
  return power * 2;
}

std::string DrawPanel(const Lines& lines, const std::map<std::string, size_t>& numbers, double x0,
                      const char* title) {
  double low = 0, high = 0.01;
  for (const auto& [name, line] : lines) {
    for (const Point& p : line) {
      low = std::min(low, p.value);
      high = std::max(high, p.value);
    }
  }
  const auto x = [&](double memory) { return x0 + memory * kWidth; };
  const auto y = [&](double value) { return kTop + (high - value) / (high - low) * kHeight; };
  std::string svg = fmt::format("<text x=\"{}\" y=\"{}\">{}</text>\n", x0, kTop - 14, title);
  for (int i = 0; i <= 4; ++i) {
    const double memory = i / 4.0;
    svg += fmt::format(
        "<path d=\"M{0:.1f} {1}V{2}\" class=\"grid\"/><text x=\"{0:.1f}\" y=\"{3}\" "
        "text-anchor=\"middle\">{4:.2f}</text>\n",
        x(memory), kTop, kTop + kHeight, kTop + kHeight + 18, memory);
  }
  const double step = GridStep(high - low);
  for (double i = std::ceil(low / step); i * step <= high; ++i) {
    const double value = i * step + 0.0;  // no -0
    svg += fmt::format(
        "<path d=\"M{0} {1:.1f}h{2}\" class=\"grid\"/><text x=\"{3}\" y=\"{4:.1f}\" "
        "text-anchor=\"end\">{5:.2f}</text>\n",
        x0, y(value), kWidth, x0 - 6, y(value) + 4, value);
  }
  for (const auto& [name, line] : lines) {
    std::string path;
    for (const Point& p : line) {
      path += fmt::format("{}{:.1f} {:.1f}", path.empty() ? "M" : "L", x(p.memory), y(p.value));
    }
    svg += fmt::format("<path d=\"{}\" stroke=\"{}\"{} class=\"line\"/>\n", path,
                       ColourOf(numbers, name), DashOf(numbers, name));
    for (const Point& p : line) {
      svg += fmt::format("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"3\" fill=\"{}\"/>\n", x(p.memory),
                         y(p.value), ColourOf(numbers, name));
    }
  }
  return svg;
}

std::string DrawLegend(const std::map<std::string, size_t>& numbers, double y0) {
  std::string svg;
  for (const auto& [name, number] : numbers) {
    const double x = kLeft + static_cast<double>(number % 3) * 270;
    const double y = y0 + static_cast<double>(number / 3) * 18;
    svg += fmt::format(
        "<path d=\"M{0} {1}h24\" stroke=\"{2}\"{3} class=\"line\"/><text x=\"{4}\" "
        "y=\"{5}\">{6}</text>\n",
        x, y - 4, ColourOf(numbers, name), DashOf(numbers, name), x + 30, y, name);
  }
  return svg;
}

}  // namespace

std::string DrawPlot(std::span<const EvalRow> rows) {
  const Lines scores = Collect(rows, true), losses = Collect(rows, false);
  std::map<std::string, size_t> numbers;
  for (const Lines* lines : {&scores, &losses}) {
    for (const auto& [name, line] : *lines) numbers.emplace(name, numbers.size());
  }
  const double legend = kTop + kHeight + 48;
  const double height = legend + 18 * (static_cast<double>(numbers.size()) / 3 + 1);
  std::string svg = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0}\" height=\"{1:.0f}\" "
      "viewBox=\"0 0 {0} {1:.0f}\">\n<style>text{{font:12px sans-serif;fill:#222}}.grid{{"
      "stroke:#ddd}}.line{{fill:none;stroke-width:1.8}}</style>\n"
      "<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n",
      2 * (kLeft + kWidth) + kGap, height);
  svg += DrawPanel(scores, numbers, kLeft, "task score, against memory at a boundary");
  svg += DrawPanel(losses, numbers, kLeft + kWidth + kGap,
                   "loss increase, against memory at a boundary");
  return svg + DrawLegend(numbers, legend) + "</svg>\n";
}

}  // namespace tangram::apps::eval
