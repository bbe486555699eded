#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "inspect/heat_map.h"
#include "inspect/report.h"

namespace tangram::apps::inspect {
namespace {

std::vector<std::string> Counted(int count) {
  std::vector<std::string> names(static_cast<size_t>(count));
  for (size_t i = 0; i < names.size(); ++i) names[i] = std::to_string(i);
  return names;
}

std::vector<std::string> Named(const std::vector<int>& numbers) {
  std::vector<std::string> names(numbers.size());
  std::ranges::transform(numbers, names.begin(), [](int number) { return std::to_string(number); });
  return names;
}

std::string Subtitle(const Inspection& in) {
  const CompressionConfig& c = in.compression;
  return fmt::format("{}: ratio {:.2f}, scorer {}, level {}", in.name, c.ratio,
                     ScorerName(c.scorer), LevelName(c.level));
}

// Heads by layer, of a value for each head.
template <class ValueOf>
HeatMap HeadMap(const Inspection& in, std::string title, const ValueOf& value) {
  const int layers = in.profile.num_layers, heads = in.profile.num_kv_heads;
  HeatMap map;
  map.title = std::move(title);
  map.subtitle = Subtitle(in);
  map.x_label = "layer";
  map.y_label = "KV head";
  map.x_names = Counted(layers);
  map.y_names = Counted(heads);
  for (int head = 0; head < heads; ++head) {
    for (int layer = 0; layer < layers; ++layer) map.values.push_back(value(layer, head));
  }
  return map;
}

HeatMap RetentionMap(const Inspection& in) {
  const std::vector<float> shares = in.demand().At(in.compression.ratio);
  return HeadMap(in, "What each head wants to keep, share of its tokens", [&](int layer, int head) {
    const auto heads = static_cast<size_t>(in.profile.num_kv_heads);
    return shares[static_cast<size_t>(layer) * heads + static_cast<size_t>(head)];
  });
}

// The number in a cell is the group's, its colour the share that the group holds.
HeatMap GroupMap(const Inspection& in) {
  const int context = in.contexts.back();
  const auto row_of = [&](int layer, int head) {
    return in.groups->rows(layer)[static_cast<size_t>(head)];
  };
  HeatMap map = HeadMap(
      in, fmt::format("Groups, and the share that each holds at {} tokens", context),
      [&](int layer, int head) {
        return static_cast<double>(in.table->Length(row_of(layer, head), context)) / context;
      });
  map.cell_width = 28;
  for (int head = 0; head < in.profile.num_kv_heads; ++head) {
    for (int layer = 0; layer < in.profile.num_layers; ++layer) {
      map.texts.push_back(std::to_string(row_of(layer, head)));
    }
  }
  return map;
}

HeatMap MemoryMap(const Inspection& in) {
  HeatMap map;
  const bool bytes = in.head_dim > 0;
  map.title = fmt::format("{} of KV cache by context and sequences at once (at ratio 1)",
                          bytes ? "GiB" : "Thousands of pages");
  map.subtitle = Subtitle(in);
  map.x_label = "sequences";
  map.y_label = "context";
  map.x_names = Named(in.concurrencies);
  map.y_names = Named(in.contexts);
  map.cell_width = 120;
  const double unit = bytes ? 1024.0 * 1024 * 1024 : 1000;
  for (const int context : in.contexts) {
    const auto pages = static_cast<double>(in.table->Pages(context, in.page_size));
    const double full = in.FullPages(context);
    for (const int count : in.concurrencies) {
      const auto shown = [&](double p) { return (bytes ? in.Bytes(p) : p) * count / unit; };
      map.values.push_back(shown(pages));
      map.texts.push_back(fmt::format("{:.3g} ({:.3g})", shown(pages), shown(full)));
    }
  }
  map.most = *std::ranges::max_element(map.values);
  return map;
}

}  // namespace

Status WriteDrawings(const Inspection& in, const std::string& folder) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  for (const auto& [name, map] :
       {std::pair("retention.svg", RetentionMap(in)), std::pair("groups.svg", GroupMap(in)),
        std::pair("memory.svg", MemoryMap(in))}) {
    const std::string path = std::filesystem::path(folder) / name;
    std::ofstream out(path);
    if (!(out << RenderSvg(map) << std::flush)) {
      return MakeError(ErrorKind::kInvalidArgument,
                       fmt::format("--svg: {} cannot be written", path), "svg");
    }
    fmt::print("{} written\n", path);
  }
  return {};
}

}  // namespace tangram::apps::inspect
