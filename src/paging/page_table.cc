#include "paging/page_table.h"

#include <cstdlib>

#include "base/check.h"

namespace tangram {

void PageTable::Free::operator()(int32_t* p) const { std::free(p); }

namespace {

// Rows a power of two apart would share a few cache sets; a block's pages are one of each group.
int Stride(int max_pages) {
  constexpr int kLine = 16;  // ids
  return max_pages + (max_pages % (16 * kLine) == 0 ? kLine : 0);
}

}  // namespace

PageTable::PageTable(int num_slots, int num_groups, int max_pages)
    : num_slots_(num_slots), num_groups_(num_groups), max_pages_(Stride(max_pages)) {
  const size_t count = size_t(num_slots) * num_groups * max_pages;
  ids_.reset(static_cast<int32_t*>(std::calloc(count, sizeof(int32_t))));
  TANGRAM_CHECK(ids_ != nullptr, "no memory for a page table of {} x {} x {}", num_slots,
                num_groups, max_pages);
}

}  // namespace tangram
