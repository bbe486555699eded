#include "paging/page_table.h"

#include <cstdlib>

#include "base/check.h"

namespace tangram {

void PageTable::Free::operator()(int32_t* p) const { std::free(p); }

PageTable::PageTable(int num_slots, int num_rows, int max_pages_per_row)
    : num_slots_(num_slots), num_rows_(num_rows), max_pages_per_row_(max_pages_per_row) {
  const size_t count = size_t(num_slots) * num_rows * max_pages_per_row;
  ids_.reset(static_cast<int32_t*>(std::calloc(count, sizeof(int32_t))));
  TANGRAM_CHECK(ids_ != nullptr, "no memory for a page table of {} x {} x {}", num_slots, num_rows,
                max_pages_per_row);
}

int32_t* PageTable::row(int slot, int row) {
  return ids_.get() + (size_t(slot) * num_rows_ + row) * max_pages_per_row_;
}

const int32_t* PageTable::row(int slot, int row) const {
  return const_cast<PageTable*>(this)->row(slot, row);
}

}  // namespace tangram
