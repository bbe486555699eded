#include "sched/slot_pages.h"

#include <algorithm>

#include "base/check.h"

namespace tangram {

SlotPages::SlotPages(Shape shape, PagePool* pool)
    : shape_(shape),
      pool_(pool),
      table_(shape.num_slots, shape.num_rows, shape.max_pages_per_row),
      counts_(size_t(shape.num_slots) * shape.num_rows),
      totals_(shape.num_slots),
      wanted_(shape.num_rows) {
  for (int slot = shape.num_slots; slot-- > 0;) free_slots_.push_back(slot);
}

int SlotPages::TakeSlot() {
  TANGRAM_CHECK(!free_slots_.empty(), "no free slot");
  const int slot = free_slots_.back();
  free_slots_.pop_back();
  return slot;
}

void SlotPages::GiveSlot(int slot) {
  int32_t* count = counts(slot);
  while (totals_[slot] > 0) {
    for (int row = shape_.num_rows; row-- > 0;) {
      if (count[row] == 0) continue;
      pool_->Release(table_.row(slot, row)[--count[row]]);
      --totals_[slot];
    }
  }
  free_slots_.push_back(slot);
}

int SlotPages::Immutable(const RetentionTable& retention, int row, int boundary) const {
  return std::max(0, retention.Retained(row, boundary) - shape_.window) / shape_.page_size;
}

SlotPages::Reuse SlotPages::CountReuse(const PrefixCache::Match& match,
                                       const RetentionTable& retention, int n) const {
  Reuse reuse;
  const auto count = [&](int32_t page) {
    ++reuse.pages;
    reuse.evictable += pool_->holders(page) == 0;
  };
  const bool crosses = retention.Boundary(n) > match.boundary;
  const int32_t* page = match.top != nullptr ? match.top->pages.data() : nullptr;
  for (int row = 0; row < shape_.num_rows && page != nullptr; ++row) {
    const int num_pages = retention.Retained(row, match.boundary) / shape_.page_size;
    std::for_each_n(page, crosses ? Immutable(retention, row, match.boundary) : num_pages, count);
    page += num_pages;
  }
  for (const CacheBlock* block : match.shared) {
    if (!crosses) std::ranges::for_each(block->pages, count);
  }
  if (match.copied != nullptr) {
    for (const int32_t p : match.copied->pages) reuse.evictable += pool_->holders(p) == 0;
  }
  return reuse;
}

void SlotPages::Adopt(int slot, const PrefixCache::Match& match, const RetentionTable& retention,
                      SchedulerOutput& output) {
  const auto share = [&](int row, int32_t page) {
    pool_->Hold(page);
    Append(slot, row, page, output);
  };
  const int32_t* page = match.top != nullptr ? match.top->pages.data() : nullptr;
  for (int row = 0; row < shape_.num_rows && page != nullptr; ++row) {
    const int num_pages = retention.Retained(row, match.boundary) / shape_.page_size;
    for (int i = 0; i < num_pages; ++i) share(row, *page++);
  }
  for (const CacheBlock* block : match.shared) {
    for (int row = 0; row < shape_.num_rows; ++row) share(row, block->pages[row]);
  }
  if (match.copied == nullptr) return;
  for (const int32_t p : match.copied->pages) pool_->Hold(p);
}

void SlotPages::CopyLast(int slot, const PrefixCache::Match& match, SchedulerOutput& output) {
  for (int row = 0; row < shape_.num_rows; ++row) {
    const int32_t to = pool_->Take();
    Copy(match.copied->pages[row], to, output);
    Append(slot, row, to, output);
  }
}

// `from` is held once for the copy.
void SlotPages::Copy(int32_t from, int32_t to, SchedulerOutput& output) {
  output.page_copies.push_back({from, to});
  copied_.push_back(from);
}

void SlotPages::ReleaseCopied() {
  for (const int32_t page : copied_) pool_->Release(page);
  copied_.clear();
}

template <class Visit>
void SlotPages::ForSharedWrites(int slot, const RetentionTable& retention, int boundary, int n,
                                Visit visit) const {
  if (retention.Boundary(n) <= boundary) return;
  const int next = boundary + retention.chunk();
  for (int row = 0; row < shape_.num_rows; ++row) {
    // What is compressed at `next` is written up to what the step leaves there; behind that it is
    // only read.
    const int end = std::min(counts(slot)[row], PagesFor(retention.PeakLength(row, next, n)));
    for (int i = Immutable(retention, row, boundary); i < end; ++i) {
      const int32_t page = table_.row(slot, row)[i];
      if (pool_->holders(page) + pool_->keepers(page) > 1) visit(row, i);
    }
  }
}

int64_t SlotPages::CountSharedWrites(int slot, const RetentionTable& retention, int boundary,
                                     int n) const {
  int64_t count = 0;
  ForSharedWrites(slot, retention, boundary, n, [&](int, int) { ++count; });
  return count;
}

void SlotPages::CopySharedWrites(int slot, const RetentionTable& retention, int boundary, int n,
                                 SchedulerOutput& output) {
  ForSharedWrites(slot, retention, boundary, n, [&](int row, int index) {
    int32_t& id = table_.row(slot, row)[index];
    const int32_t to = pool_->Take();
    Copy(id, to, output);
    id = to;
    output.page_updates.push_back({slot, row, index, to});
  });
}

void SlotPages::Append(int slot, int row, int32_t page, SchedulerOutput& output) {
  int32_t& count = counts(slot)[row];
  table_.row(slot, row)[count] = page;
  output.page_updates.push_back({slot, row, count, page});
  ++count;
  ++totals_[slot];
}

void SlotPages::Grow(int slot, const RetentionTable& retention, int boundary, int n,
                     SchedulerOutput& output) {
  for (int row = 0; row < shape_.num_rows; ++row) {
    wanted_[row] = PagesFor(retention.PeakLength(row, boundary, n));
  }
  for (bool grew = true; grew;) {
    grew = false;
    for (int row = 0; row < shape_.num_rows; ++row) {
      if (counts(slot)[row] >= wanted_[row]) continue;
      Append(slot, row, pool_->Take(), output);
      grew = true;
    }
  }
}

void SlotPages::Trim(int slot, const RetentionTable& retention, int n) {
  for (int row = 0; row < shape_.num_rows; ++row) {
    int32_t& count = counts(slot)[row];
    const int wanted = PagesFor(retention.Length(row, n));
    for (const int32_t* ids = table_.row(slot, row); count > wanted; --totals_[slot]) {
      pool_->Release(ids[--count]);
    }
  }
}

void SlotPages::CheckInvariants(int slot, const RetentionTable& retention, int boundary, int n,
                                std::vector<int32_t>& holders) const {
  int64_t total = 0;
  for (int row = 0; row < shape_.num_rows; ++row) {
    const int32_t count = counts(slot)[row];
    const int length = retention.Retained(row, boundary) + n - boundary;
    TANGRAM_CHECK(count == PagesFor(length), "slot {} row {} of length {} holds {} pages", slot,
                  row, length, count);
    for (int i = 0; i < count; ++i) ++holders[table_.row(slot, row)[i]];
    total += count;
  }
  TANGRAM_CHECK(total == totals_[slot], "slot {} holds {} pages, counted {}", slot, total,
                totals_[slot]);
}

}  // namespace tangram
