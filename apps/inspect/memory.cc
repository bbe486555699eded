#include "inspect/memory.h"

#include <algorithm>

namespace tangram::apps::inspect {

SequenceMemory MemoryAt(const RetentionTable& table, int tokens, int page_size) {
  SequenceMemory memory;
  memory.tokens = tokens;
  memory.resident = table.MeanLength(tokens);
  memory.pages = table.Pages(tokens, page_size);
  memory.shortest = tokens;
  for (int row = 0; row < table.num_rows(); ++row) {
    const int length = table.Length(row, tokens);
    memory.longest = std::max(memory.longest, length);
    memory.shortest = std::min(memory.shortest, length);
  }
  const double ratio = table.full() ? 1.0 : table.percent() / 100.0;
  const int first = table.full() ? tokens - 1 : table.Boundary(tokens);
  const int last = table.full() ? tokens : first + table.chunk();
  for (int n = first + 1; n <= last; ++n) {
    const double held = table.MeanLength(n);
    const double room = double(table.Pages(n, page_size)) * page_size / table.num_rows();
    memory.chunk_mean += held / (last - first);
    memory.between += (held - ratio * n) / (last - first);
    memory.page_rounding += (room - held) / (last - first);
  }
  return memory;
}

}  // namespace tangram::apps::inspect
