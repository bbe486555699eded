#include "sched/slot_pages.h"

#include "base/check.h"

namespace tangram {

SlotPages::SlotPages(int num_slots, int num_rows, int max_pages_per_row, int page_size,
                     PagePool* pool)
    : num_rows_(num_rows),
      page_size_(page_size),
      pool_(pool),
      table_(num_slots, num_rows, max_pages_per_row),
      counts_(size_t(num_slots) * num_rows),
      totals_(num_slots) {
  for (int slot = num_slots; slot-- > 0;) free_slots_.push_back(slot);
}

int SlotPages::TakeSlot() {
  TANGRAM_CHECK(!free_slots_.empty(), "no free slot");
  const int slot = free_slots_.back();
  free_slots_.pop_back();
  return slot;
}

void SlotPages::GiveSlot(int slot) {
  for (int row = 0; row < num_rows_; ++row) {
    int32_t& count = counts_[size_t(slot) * num_rows_ + row];
    for (const int32_t* page = table_.row(slot, row); count > 0; --count) pool_->Release(*page++);
  }
  totals_[slot] = 0;
  free_slots_.push_back(slot);
}

void SlotPages::Grow(int slot, const RetentionTable& retention, int from, int to,
                     std::vector<PageUpdate>& updates) {
  for (int row = 0; row < num_rows_; ++row) {
    int32_t& count = counts_[size_t(slot) * num_rows_ + row];
    const int wanted = PagesFor(retention.PeakLength(row, from, to));
    for (int32_t* ids = table_.row(slot, row); count < wanted; ++count) {
      ids[count] = pool_->Take();
      updates.push_back({slot, row, count, ids[count]});
      ++totals_[slot];
    }
  }
}

void SlotPages::Trim(int slot, const RetentionTable& retention, int n) {
  for (int row = 0; row < num_rows_; ++row) {
    int32_t& count = counts_[size_t(slot) * num_rows_ + row];
    const int wanted = PagesFor(retention.Length(row, n));
    for (const int32_t* ids = table_.row(slot, row); count > wanted; --totals_[slot]) {
      pool_->Release(ids[--count]);
    }
  }
}

}  // namespace tangram
