#pragma once

#include <string>
#include <vector>

namespace tangram::apps::inspect {

// Values over two axes, drawn as an SVG: a grid of coloured cells with a scale from `least` to
// `most`. The value of a cell is its tooltip, and `texts`, if there are any, stand in the cells.
struct HeatMap {
  std::string title, subtitle;
  std::string x_label, y_label;
  std::vector<std::string> x_names, y_names;
  std::vector<double> values;      // [y, x]
  std::vector<std::string> texts;  // [y, x], or empty
  double least = 0, most = 1;
  int cell_width = 20;  // pixels
};

std::string RenderSvg(const HeatMap& map);

}  // namespace tangram::apps::inspect
