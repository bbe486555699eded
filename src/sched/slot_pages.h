#pragma once

#include <cstdint>
#include <vector>

#include "paging/page_pool.h"
#include "paging/page_table.h"
#include "paging/retention_table.h"
#include "sched/scheduler_output.h"

namespace tangram {

// The slots of the page table and the pages that running sequences hold in them. Pages are taken
// and released across the rows, so that those of a block are neighbours in the pool's arrays: this
// halves the time of beginning and ending a sequence.
class SlotPages {
 public:
  SlotPages(int num_slots, int num_rows, int max_pages_per_row, int page_size, PagePool* pool);

  const PageTable& table() const { return table_; }
  int TakeSlot();
  // Releases the slot with all its pages.
  void GiveSlot(int slot);

  int64_t num_pages(int slot) const { return totals_[slot]; }
  // Appends one page to each row: pages[row], which the slot holds from now on.
  void Share(int slot, const std::vector<int32_t>& pages, std::vector<PageUpdate>& updates);
  // Appends one page to each row, to be filled from pages[row].
  void Copy(int slot, const std::vector<int32_t>& pages, SchedulerOutput& output);
  // Room for PeakLength(row, from, to) in each row; the pool has the pages.
  void Grow(int slot, const RetentionTable& retention, int from, int to,
            std::vector<PageUpdate>& updates);
  // Releases what Length(row, n) does not need.
  void Trim(int slot, const RetentionTable& retention, int n);
  // Aborts unless the slot has the pages of Length(row, n). Adds 1 to holders[page] for each.
  void CheckInvariants(int slot, const RetentionTable& retention, int n,
                       std::vector<int32_t>& holders) const;

 private:
  void Append(int slot, int row, int32_t page, std::vector<PageUpdate>& updates);
  int PagesFor(int length) const { return (length + page_size_ - 1) / page_size_; }

  int num_rows_, page_size_;
  PagePool* pool_;
  PageTable table_;
  std::vector<int> free_slots_;
  std::vector<int32_t> counts_;  // [slots][rows]
  std::vector<int64_t> totals_;  // [slots], of counts_
  std::vector<int32_t> wanted_;  // [rows], of the call in progress
};

}  // namespace tangram
