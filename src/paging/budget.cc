#include "paging/budget.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "base/check.h"

namespace tangram {
namespace {

// A group's length after a boundary, in pages.
struct Range {
  int least, most;
};

// The demand, scaled to add up to `total`, and then shifted by one number for all groups, within
// the ranges, so that it still does. What the floor gives to groups that want less is thus taken
// from all others alike, not in proportion: docs/accuracy.md compares the two.
std::vector<double> Targets(std::span<const double> demand, const std::vector<Range>& ranges,
                            int64_t total) {
  const double scale = double(total) / std::accumulate(demand.begin(), demand.end(), 0.0);
  std::vector<double> targets(demand.size());
  const auto fill = [&](double shift) {
    double sum = 0;
    for (size_t r = 0; r < demand.size(); ++r) {
      targets[r] =
          std::clamp(demand[r] * scale + shift, double(ranges[r].least), double(ranges[r].most));
      sum += targets[r];
    }
    return sum;
  };
  double low = -double(total), high = double(total);
  for (int i = 0; i < 60; ++i) {
    const double middle = (low + high) / 2;
    (fill(middle) < double(total) ? low : high) = middle;
  }
  fill(high);
  return targets;
}

// Whole pages that add up to `total`, nearest to the targets: by largest remainder, the first group
// first among equals.
std::vector<int> Round(const std::vector<double>& targets, const std::vector<Range>& ranges,
                       int64_t total) {
  constexpr double kExact = 1e-6;  // above the error of a target that is whole
  std::vector<int> pages(targets.size());
  std::vector<size_t> by_remainder(targets.size());
  std::iota(by_remainder.begin(), by_remainder.end(), size_t{0});
  for (size_t r = 0; r < targets.size(); ++r) pages[r] = int(std::floor(targets[r] + kExact));
  std::ranges::stable_sort(by_remainder, std::greater{},
                           [&](size_t r) { return std::round((targets[r] - pages[r]) / kExact); });
  for (int64_t rest = total - std::accumulate(pages.begin(), pages.end(), int64_t{0}); rest > 0;) {
    for (const size_t r : by_remainder) {
      if (rest == 0 || pages[r] == ranges[r].most) continue;
      ++pages[r];
      --rest;
    }
  }
  return pages;
}

}  // namespace

int RetentionFloor(const CompressionConfig& config, int page_size) {
  const int floor = std::max(config.floor, config.sinks + config.window);
  return (floor + page_size - 1) / page_size * page_size;
}

RetentionTable BuildRetentionTable(const CompressionConfig& config, std::span<const double> demand,
                                   int page_size, int max_tokens) {
  const int num_groups = static_cast<int>(demand.size()), chunk = config.chunk;
  const int percent = static_cast<int>(std::lround(config.ratio * 100));
  const int floor_pages = RetentionFloor(config, page_size) / page_size;
  const int chunk_pages = chunk / page_size;
  TANGRAM_CHECK(num_groups > 0 && chunk % page_size == 0, "{} groups, chunk {}", num_groups, chunk);
  // A group that asks for nothing still takes what the others cannot.
  const double least_demand = 1e-6 * std::max(*std::ranges::max_element(demand), 1e-6);
  std::vector<double> wanted(demand.begin(), demand.end());
  for (double& d : wanted) d = std::max(d, least_demand);

  std::vector<int32_t> retained;
  std::vector<int> pages(num_groups);
  std::vector<Range> ranges(num_groups);
  for (int boundary = chunk; boundary == chunk || boundary < max_tokens; boundary += chunk) {
    int64_t least = 0, most = 0;
    for (int r = 0; r < num_groups; ++r) {
      ranges[r].most = pages[r] + chunk_pages;
      ranges[r].least = std::min(std::max(pages[r], floor_pages), ranges[r].most);
      least += ranges[r].least;
      most += ranges[r].most;
    }
    const int64_t share =
        (int64_t{percent} * boundary * num_groups + 50 * page_size) / (100 * page_size);
    const int64_t total = std::clamp(share, least, most);
    pages = Round(Targets(wanted, ranges, total), ranges, total);
    for (const int count : pages) retained.push_back(count * page_size);
  }
  return RetentionTable(num_groups, chunk, percent, std::move(retained));
}

}  // namespace tangram
