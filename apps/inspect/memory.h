#pragma once

#include <cstdint>

#include "paging/retention_table.h"

namespace tangram::apps::inspect {

// What one sequence holds. All in tokens of a whole sequence (resident tokens: means over rows).
struct SequenceMemory {
  int tokens = 0;                 // processed
  double resident = 0;            // held after the last of them
  double chunk_mean = 0;          // held on average from the last boundary to the next
  double page_rounding = 0;       // of pages that are not full, on average likewise
  double between = 0;             // of chunk_mean, above the share that the ratio names
  int longest = 0, shortest = 0;  // rows
  int64_t pages = 0;
};

// At the end of a context of `tokens` (>= 1) under `table`, in pages of page_size tokens.
SequenceMemory MemoryAt(const RetentionTable& table, int tokens, int page_size);

}  // namespace tangram::apps::inspect
