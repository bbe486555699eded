#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "paging/page_pool.h"
#include "paging/page_table.h"
#include "paging/prefix_cache.h"
#include "paging/retention_table.h"
#include "sched/scheduler_output.h"

namespace tangram {

// The slots of the page table and the pages that running sequences hold in them. A state is
// (boundary, n): the groups are compressed up to the boundary, and n tokens are processed.
//
// Pages are taken and released across the groups, so that those of a block are neighbours in the
// pool's arrays: this halves the time of beginning and ending a sequence.
class SequencePages {
 public:
  struct Shape {
    int num_slots, num_groups, max_pages, page_size;
    int window;  // last tokens that compression at the next boundary moves
  };
  SequencePages(Shape shape, PagePool* pool);

  const PageTable& table() const { return table_; }
  int64_t num_pages(int slot) const { return totals_[slot]; }
  int TakeSlot();
  // Releases the slot with all its pages.
  void GiveSlot(int slot);

  // Pages of a match that a sequence going on to n would share to the end, and those of them, or of
  // the block to be copied, that nobody holds now.
  struct Reuse {
    int64_t pages = 0, evictable = 0;
  };
  Reuse CountReuse(const PrefixCache::Match& match, const RetentionTable& retention, int n) const;
  // Gives an empty slot the shared pages of a match, and holds those of the block to be copied.
  void Adopt(int slot, const PrefixCache::Match& match, const RetentionTable& retention,
             SchedulerOutput& output);
  // Then appends copies of that block's pages; the pool has pages for them.
  void CopyLast(int slot, const PrefixCache::Match& match, SchedulerOutput& output);

  // Shared pages that compression would write if a step went on to n: none, unless it crosses a
  // boundary.
  int64_t CountSharedWrites(int slot, const RetentionTable& retention, int boundary, int n) const;
  // Puts copies in their place; the pool has the pages.
  void CopySharedWrites(int slot, const RetentionTable& retention, int boundary, int n,
                        SchedulerOutput& output);
  // Room for PeakLength(group, boundary, n) in each group; the pool has the pages.
  void Grow(int slot, const RetentionTable& retention, int boundary, int n,
            SchedulerOutput& output);
  // Releases what the state (boundary, n) does not need.
  void Trim(int slot, const RetentionTable& retention, int boundary, int n);
  // The copies of the step are made: their sources need not be held any longer.
  void ReleaseCopied();

  // Aborts unless the slot has the pages of its state. Adds 1 to sequence_refs[page] for each.
  void CheckInvariants(int slot, const RetentionTable& retention, int boundary, int n,
                       std::vector<int32_t>& sequence_refs) const;

 private:
  int PagesFor(int length) const { return (length + shape_.page_size - 1) / shape_.page_size; }
  int32_t* counts(int slot) { return &counts_[size_t(slot) * shape_.num_groups]; }
  const int32_t* counts(int slot) const { return &counts_[size_t(slot) * shape_.num_groups]; }
  // First pages of a group that no later compression writes.
  int Immutable(const RetentionTable& retention, int group, int boundary) const;
  // One page more in each group: [G].
  void AppendBlock(int slot, std::span<const int32_t> pages);
  void Copy(int32_t from, int32_t to, SchedulerOutput& output);
  // Tells the device of `count` pages of a group from `first` on.
  void Tell(int slot, int group, int first, int count, SchedulerOutput& output) const;
  // visit(group, index) for each page that CountSharedWrites counts.
  template <class Visit>
  void ForSharedWrites(int slot, const RetentionTable& retention, int boundary, int n,
                       Visit visit) const;

  Shape shape_;
  PagePool* pool_;
  PageTable table_;
  std::vector<int> free_slots_;
  std::vector<int32_t> counts_;  // [slots][groups]
  std::vector<int64_t> totals_;  // [slots], of counts_
  std::vector<int32_t> wanted_;  // [groups], of the call in progress
  std::vector<int32_t> pages_;   // likewise, taken or to be released
  std::vector<int32_t> copied_;  // sources of the step's copies, held until they are made
};

}  // namespace tangram
