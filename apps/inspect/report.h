#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "compression/profile.h"
#include "paging/compression_config.h"
#include "paging/head_group_map.h"
#include "paging/retention_table.h"

namespace tangram::apps::inspect {

// What is looked at: a profile, and what options make of it.
struct Inspection {
  std::string name;  // of model and profile
  Profile profile;
  CompressionConfig compression;
  int page_size = 16;
  int head_dim = 0;  // 0: not known, as of a profile alone; then memory is told in tokens
  int element_bytes = 2;
  int max_context = 0;
  std::optional<HeadGroupMap> groups;
  std::vector<double> row_shares;       // the demand of each row
  std::optional<RetentionTable> table;  // knows a chunk more than the longest of `contexts`
  std::vector<int> contexts, concurrencies;

  const HeadDemand& demand() const { return profile.scorers.at(compression.scorer).demand; }
  int num_heads() const { return profile.num_layers * profile.num_kv_heads; }
  // Pages of one sequence at ratio 1.
  double FullPages(int context) const {
    const int64_t of_row = (context + page_size - 1) / page_size;
    return static_cast<double>(of_row * groups->num_rows());
  }
  // Of one sequence's pages; 0 where head_dim is not known.
  double Bytes(double pages) const {
    return pages * page_size * groups->group_size() * head_dim * 2.0 * element_bytes;
  }
};

// Tables for a terminal: settings, retention, groups, memory, waste.
std::string TextReport(const Inspection& inspection);

// Heat maps into `folder`, which is made if need be: retention.svg, groups.svg, memory.svg.
// kInvalidArgument if it cannot be written.
Status WriteDrawings(const Inspection& inspection, const std::string& folder);

}  // namespace tangram::apps::inspect
