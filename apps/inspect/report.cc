#include "inspect/report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <numeric>

#include "inspect/memory.h"
#include "paging/budget.h"

namespace tangram::apps::inspect {
namespace {

constexpr double kMiB = 1024.0 * 1024;

template <class... Args>
void Append(std::string& to, fmt::format_string<Args...> format, Args&&... args) {
  fmt::format_to(std::back_inserter(to), format, std::forward<Args>(args)...);
}

double Mean(std::span<const float> values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

std::string Settings(const Inspection& in) {
  const CompressionConfig& c = in.compression;
  const Profile& p = in.profile;
  std::string text;
  Append(text, "{}\n{} layers of {} KV heads; {} samples of {} tokens{}{}{}\n", in.name,
         p.num_layers, p.num_kv_heads, p.num_samples, p.sample_tokens,
         p.imported_from.empty() ? "" : "; imported from ", p.imported_from,
         IsOutdated(p) ? "; calibrated by an earlier version of Tangram" : "");
  Append(text, "{:<20} profiled at ratios        rank correlation of samples (worst, mean)\n",
         "scorer");
  for (const auto& [scorer, s] : p.scorers) {
    std::string ratios;
    for (const float ratio : s.demand.ratios) Append(ratios, "{:.2f} ", ratio);
    Append(text, "{:<20} {:<26} {:.3f}  {:.3f}\n", ScorerName(scorer), ratios,
           *std::ranges::min_element(s.stability), Mean(s.stability));
  }
  Append(
      text,
      "\nRatio {:.2f}, scorer {}, level {}, chunk {}, window {}, sinks {}, floor {}: {} groups of "
      "{} heads, pages of {} tokens\n",
      c.ratio, ScorerName(c.scorer), LevelName(c.level), c.chunk, c.window, c.sinks,
      RetentionFloor(c, in.page_size), in.groups->num_rows(), in.groups->group_size(),
      in.page_size);
  return text;
}

std::string Retention(const Inspection& in) {
  const std::vector<float> shares = in.demand().At(in.compression.ratio);
  const auto heads = static_cast<size_t>(in.profile.num_kv_heads);
  std::string text = "\nWhat each head wants to keep, % of its tokens\nlayer |";
  for (size_t h = 0; h < heads; ++h) Append(text, " {:>3}", h);
  text += " | mean\n";
  for (size_t l = 0; l < shares.size() / heads; ++l) {
    Append(text, "{:>5} |", l);
    const auto layer = std::span(shares).subspan(l * heads, heads);
    for (const float share : layer) Append(text, " {:>3.0f}", share * 100);
    const double mean = Mean(layer);
    Append(text, " | {:>4.0f} {}\n", mean * 100,
           std::string(static_cast<size_t>(std::lround(mean * 40)), '#'));
  }
  return text;
}

// The heads of each row, "layer.head", in the order of their columns.
std::vector<std::string> HeadsOfRows(const HeadGroupMap& groups) {
  std::vector<std::vector<std::string>> heads(
      static_cast<size_t>(groups.num_rows()),
      std::vector<std::string>(static_cast<size_t>(groups.group_size())));
  for (int layer = 0; layer < groups.num_layers(); ++layer) {
    for (size_t h = 0; h < groups.rows(layer).size(); ++h) {
      heads[static_cast<size_t>(groups.rows(layer)[h])]
           [static_cast<size_t>(groups.columns(layer)[h])] = fmt::format("{}.{}", layer, h);
    }
  }
  std::vector<std::string> rows;
  for (const auto& row : heads) {
    std::string& text = rows.emplace_back();
    for (const std::string& head : row) Append(text, " {:>5}", head);
  }
  return rows;
}

std::string Groups(const Inspection& in) {
  const int context = in.contexts.back();
  const auto heads = HeadsOfRows(*in.groups);
  std::string text = "\nGroups (rows): tokens held at a context of ";
  Append(text, "{}\n  row  tokens     %  heads (layer.head)\n", context);
  for (int row = 0; row < in.groups->num_rows(); ++row) {
    const int length = in.table->Length(row, context);
    Append(text, "{:>5} {:>7} {:>5.1f} {}\n", row, length, 100.0 * length / context,
           heads[static_cast<size_t>(row)]);
  }
  return text;
}

std::string Memory(const Inspection& in) {
  std::string text =
      "\nOne sequence, in tokens: held at that length, and on average from the boundary before it "
      "to "
      "the next\n   context     held     %   average   longest row  shortest     pages";
  text += in.head_dim > 0 ? "      MiB  MiB at ratio 1\n" : "\n";
  for (const int context : in.contexts) {
    const SequenceMemory m = MemoryAt(*in.table, context, in.page_size);
    Append(text, "{:>10} {:>8.0f} {:>5.1f} {:>9.0f} {:>13} {:>9} {:>9}", context, m.resident,
           100 * m.resident / context, m.chunk_mean, m.longest, m.shortest, m.pages);
    if (in.head_dim > 0) {
      const double full = in.FullPages(context);
      Append(text, " {:>8.1f} {:>15.1f}", in.Bytes(static_cast<double>(m.pages)) / kMiB,
             in.Bytes(full) / kMiB);
    }
    text += '\n';
  }
  text +=
      "\nWaste, in tokens, on average from boundary to boundary: of pages that are not full; above "
      "the ratio's share\n   context  page rounding     %   between boundaries     %\n";
  for (const int context : in.contexts) {
    const SequenceMemory m = MemoryAt(*in.table, context, in.page_size);
    Append(text, "{:>10} {:>14.1f} {:>5.1f} {:>20.1f} {:>5.1f}\n", context, m.page_rounding,
           100 * m.page_rounding / m.chunk_mean, m.between, 100 * m.between / m.chunk_mean);
  }
  return text;
}

std::string Concurrency(const Inspection& in) {
  std::string text = in.head_dim > 0
                         ? "\nMiB of pages by context and sequences at once (at ratio 1)\n"
                         : "\nThousands of pages by context and sequences at once (at "
                           "ratio 1)\n";
  text += "   context";
  for (const int count : in.concurrencies) Append(text, " {:>22}", count);
  text += '\n';
  for (const int context : in.contexts) {
    Append(text, "{:>10}", context);
    const auto pages = static_cast<double>(in.table->Pages(context, in.page_size));
    const double full = in.FullPages(context);
    for (const int count : in.concurrencies) {
      const auto shown = [&](double p) { return in.head_dim > 0 ? in.Bytes(p) / kMiB : p / 1000; };
      Append(text, " {:>22}",
             fmt::format("{:.1f} ({:.1f})", shown(pages * count), shown(full * count)));
    }
    text += '\n';
  }
  return text;
}

}  // namespace

std::string TextReport(const Inspection& in) {
  return Settings(in) + Retention(in) + Groups(in) + Memory(in) + Concurrency(in);
}

}  // namespace tangram::apps::inspect
