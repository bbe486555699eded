#pragma once

#include <span>

#include "paging/compression_config.h"
#include "paging/retention_table.h"

namespace tangram {

// What is kept at least of each group: config.floor, or sinks and window, rounded up to whole
// pages.
int RetentionFloor(const CompressionConfig& config, int page_size);

// The table of lengths for the share config.ratio (to 0.01) of `demand.size()` groups, up to
// max_tokens. demand[group] >= 0 says how much of the group's tokens should stay, in any unit:
// lengths are proportional to it as far as floors, and growth by 0 to `chunk` tokens in whole
// pages, allow. At each boundary b the lengths add up to ratio * b * groups, rounded to pages, and
// are nearest to their targets by largest remainder; only where floors, or what was kept before,
// come to more is the sum larger. The result depends on nothing else. Chunk, window and sinks are
// valid (CompressionConfig), the chunk a multiple of page_size.
RetentionTable BuildRetentionTable(const CompressionConfig& config, std::span<const double> demand,
                                   int page_size, int max_tokens);

}  // namespace tangram
