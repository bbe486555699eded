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
  int32_t* counts = &counts_[size_t(slot) * num_rows_];
  while (totals_[slot] > 0) {
    for (int row = num_rows_; row-- > 0;) {
      if (counts[row] == 0) continue;
      pool_->Release(table_.row(slot, row)[--counts[row]]);
      --totals_[slot];
    }
  }
  free_slots_.push_back(slot);
}

void SlotPages::Append(int slot, int row, int32_t page, std::vector<PageUpdate>& updates) {
  int32_t& count = counts_[size_t(slot) * num_rows_ + row];
  table_.row(slot, row)[count] = page;
  updates.push_back({slot, row, count, page});
  ++count;
  ++totals_[slot];
}

void SlotPages::Share(int slot, const std::vector<int32_t>& pages,
                      std::vector<PageUpdate>& updates) {
  for (int row = 0; row < num_rows_; ++row) {
    pool_->Hold(pages[row]);
    Append(slot, row, pages[row], updates);
  }
}

void SlotPages::Copy(int slot, const std::vector<int32_t>& pages, SchedulerOutput& output) {
  for (int row = 0; row < num_rows_; ++row) {
    const int32_t page = pool_->Take();
    Append(slot, row, page, output.page_updates);
    output.page_copies.push_back({pages[row], page});
  }
}

void SlotPages::Grow(int slot, const RetentionTable& retention, int from, int to,
                     std::vector<PageUpdate>& updates) {
  const int32_t* counts = &counts_[size_t(slot) * num_rows_];
  wanted_.resize(num_rows_);
  for (int row = 0; row < num_rows_; ++row) {
    wanted_[row] = PagesFor(retention.PeakLength(row, from, to));
  }
  for (bool grew = true; grew;) {
    grew = false;
    for (int row = 0; row < num_rows_; ++row) {
      if (counts[row] >= wanted_[row]) continue;
      Append(slot, row, pool_->Take(), updates);
      grew = true;
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

void SlotPages::CheckInvariants(int slot, const RetentionTable& retention, int n,
                                std::vector<int32_t>& holders) const {
  int64_t total = 0;
  for (int row = 0; row < num_rows_; ++row) {
    const int32_t count = counts_[size_t(slot) * num_rows_ + row];
    const int length = retention.Length(row, n);
    TANGRAM_CHECK(count == PagesFor(length), "slot {} row {} of length {} holds {} pages", slot,
                  row, length, count);
    for (int i = 0; i < count; ++i) ++holders[table_.row(slot, row)[i]];
    total += count;
  }
  TANGRAM_CHECK(total == totals_[slot], "slot {} holds {} pages, counted {}", slot, total,
                totals_[slot]);
}

}  // namespace tangram
