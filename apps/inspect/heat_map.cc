#include "inspect/heat_map.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <iterator>

namespace tangram::apps::inspect {
namespace {

constexpr int kCellHeight = 20, kLeft = 90, kTop = 64, kScaleWidth = 220;

struct Colour {
  double red, green, blue;
};

// Dark to bright, of even steps to the eye and also without colours (matplotlib's viridis).
constexpr std::array<Colour, 6> kColours = {
    {{68, 1, 84}, {65, 68, 135}, {42, 120, 142}, {34, 168, 132}, {122, 209, 81}, {253, 231, 37}}};

std::string ColourOf(double share) {
  const double at = std::clamp(share, 0.0, 1.0) * (kColours.size() - 1);
  const size_t i = std::min(static_cast<size_t>(at), kColours.size() - 2);
  const double w = at - static_cast<double>(i);
  const auto mix = [&](double Colour::*part) {
    return std::lround(kColours[i].*part * (1 - w) + kColours[i + 1].*part * w);
  };
  return fmt::format("#{:02x}{:02x}{:02x}", mix(&Colour::red), mix(&Colour::green),
                     mix(&Colour::blue));
}

std::string Escaped(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (c == '&') {
      out += "&amp;";
    } else if (c == '<') {
      out += "&lt;";
    } else {
      out += static_cast<unsigned char>(c) < ' ' ? '?' : c;
    }
  }
  return out;
}

class Drawing {
 public:
  void Text(double x, double y, const std::string& text, const char* attributes = "") {
    fmt::format_to(std::back_inserter(body_), "<text x=\"{:.1f}\" y=\"{:.1f}\" {}>{}</text>\n", x,
                   y, attributes, Escaped(text));
  }
  void Cell(double x, double y, double width, double share, const std::string& tip) {
    fmt::format_to(std::back_inserter(body_),
                   "<rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{}\" "
                   "fill=\"{}\"><title>{}</title></rect>\n",
                   x, y, width, kCellHeight - 1, ColourOf(share), Escaped(tip));
  }
  std::string Finish(int width, int height) const {
    return fmt::format(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0}\" height=\"{1}\" "
        "viewBox=\"0 0 {0} {1}\" font-family=\"sans-serif\" font-size=\"11\">\n"
        "<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n{2}</svg>\n",
        width, height, body_);
  }

 private:
  std::string body_;
};

// Names that would overlap are left out: every n-th stays.
size_t Every(size_t count, int cell, int needed) {
  size_t every = 1;
  while (every < count && static_cast<int>(every) * cell < needed) every *= every % 5 == 2 ? 5 : 2;
  return every;
}

}  // namespace

std::string RenderSvg(const HeatMap& map) {
  Drawing drawing;
  const size_t columns = map.x_names.size(), rows = map.y_names.size();
  const double range = map.most > map.least ? map.most - map.least : 1;
  drawing.Text(kLeft, 20, map.title, "font-size=\"15\" font-weight=\"bold\"");
  drawing.Text(kLeft, 38, map.subtitle, "fill=\"#555\"");
  const auto cell = [&](size_t x, size_t y) { return y * columns + x; };
  for (size_t y = 0; y < rows; ++y) {
    const double top = kTop + static_cast<double>(y) * kCellHeight;
    drawing.Text(kLeft - 6, top + 14, map.y_names[y], "text-anchor=\"end\"");
    for (size_t x = 0; x < columns; ++x) {
      const double left = kLeft + static_cast<double>(x) * map.cell_width;
      const double value = map.values[cell(x, y)], share = (value - map.least) / range;
      drawing.Cell(left, top, map.cell_width - 1, share,
                   fmt::format("{} {}, {} {}: {:.4g}", map.x_label, map.x_names[x], map.y_label,
                               map.y_names[y], value));
      if (map.texts.empty()) continue;
      drawing.Text(left + map.cell_width / 2.0, top + 14, map.texts[cell(x, y)],
                   share < 0.6 ? "text-anchor=\"middle\" fill=\"white\""
                               : "text-anchor=\"middle\" fill=\"black\"");
    }
  }
  const double below = kTop + static_cast<double>(rows) * kCellHeight + 14;
  const size_t every = Every(columns, map.cell_width, 24);
  for (size_t x = 0; x < columns; x += every) {
    drawing.Text(kLeft + (static_cast<double>(x) + 0.5) * map.cell_width, below, map.x_names[x],
                 "text-anchor=\"middle\"");
  }
  drawing.Text(kLeft, below + 18, map.x_label, "fill=\"#555\"");
  drawing.Text(kLeft - 6, kTop - 8, map.y_label, "text-anchor=\"end\" fill=\"#555\"");
  constexpr int kSteps = 44;
  for (int i = 0; i < kSteps; ++i) {
    const double share = (i + 0.5) / kSteps, width = double(kScaleWidth) / kSteps;
    drawing.Cell(kLeft + i * width, below + 30, width + 0.5, share,
                 fmt::format("{:.4g}", map.least + share * range));
  }
  drawing.Text(kLeft, below + 64, fmt::format("{:.4g}", map.least));
  drawing.Text(kLeft + kScaleWidth, below + 64, fmt::format("{:.4g}", map.most),
               "text-anchor=\"end\"");
  // Letters of the titles are at most about so wide on average.
  const int title = static_cast<int>(std::max(map.title.size() * 9, map.subtitle.size() * 6));
  const int width = kLeft + std::max(static_cast<int>(columns) * map.cell_width, title) + 20;
  return drawing.Finish(width, static_cast<int>(below) + 76);
}

}  // namespace tangram::apps::inspect
