#include "paging/page_table.h"

#include <cstdlib>

#include "base/check.h"

namespace tangram {

void PageTable::Free::operator()(int32_t* p) const { std::free(p); }

namespace {

// Rows a power of two apart would share a few cache sets; a block's pages are one of each row.
int Stride(int max_pages_per_row) {
  constexpr int kLine = 16;  // ids
  return max_pages_per_row + (max_pages_per_row % (16 * kLine) == 0 ? kLine : 0);
}

}  // namespace

PageTable::PageTable(int num_slots, int num_rows, int max_pages_per_row)
    : num_slots_(num_slots), num_rows_(num_rows), max_pages_per_row_(Stride(max_pages_per_row)) {
  const size_t count = size_t(num_slots) * num_rows * max_pages_per_row;
  ids_.reset(static_cast<int32_t*>(std::calloc(count, sizeof(int32_t))));
  TANGRAM_CHECK(ids_ != nullptr, "no memory for a page table of {} x {} x {}", num_slots, num_rows,
                max_pages_per_row);
}

}  // namespace tangram
