#include "sched/slot_pages.h"

#include <algorithm>
#include <iterator>

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
  pages_.resize(totals_[slot]);
  for (auto page = pages_.begin(); page != pages_.end();) {
    for (int row = shape_.num_rows; row-- > 0;) {
      if (count[row] > 0) *page++ = table_.row(slot, row)[--count[row]];
    }
  }
  pool_->Release(pages_);
  totals_[slot] = 0;
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
  for (const auto pages : match.shared) {
    if (!crosses) std::ranges::for_each(pages, count);
  }
  for (const int32_t p : match.copied) reuse.evictable += pool_->holders(p) == 0;
  return reuse;
}

void SlotPages::Adopt(int slot, const PrefixCache::Match& match, const RetentionTable& retention,
                      SchedulerOutput& output) {
  if (match.top != nullptr) {
    pool_->Hold(match.top->pages);
    const int32_t* page = match.top->pages.data();
    for (int row = 0; row < shape_.num_rows; ++row) {
      const int num_pages = retention.Retained(row, match.boundary) / shape_.page_size;
      std::copy_n(page, num_pages, table_.row(slot, row));
      page += counts(slot)[row] = num_pages;
    }
    totals_[slot] = std::ssize(match.top->pages);
  }
  for (const auto pages : match.shared) {
    pool_->Hold(pages);
    AppendBlock(slot, pages);
  }
  for (int row = 0; row < shape_.num_rows; ++row) {
    if (const int count = counts(slot)[row]; count > 0) {
      output.page_updates.push_back({slot, row, 0, count});
    }
  }
  pool_->Hold(match.copied);
}

void SlotPages::CopyLast(int slot, const PrefixCache::Match& match, SchedulerOutput& output) {
  pages_.resize(shape_.num_rows);
  pool_->Take(pages_);
  for (int row = 0; row < shape_.num_rows; ++row) {
    Copy(match.copied[row], pages_[row], output);
    output.page_updates.push_back({slot, row, counts(slot)[row], 1});
  }
  AppendBlock(slot, pages_);
}

void SlotPages::AppendBlock(int slot, std::span<const int32_t> pages) {
  int32_t* count = counts(slot);
  for (int row = 0; row < shape_.num_rows; ++row) {
    table_.row(slot, row)[count[row]++] = pages[row];
  }
  totals_[slot] += shape_.num_rows;
}

// `from` is held once for the copy.
void SlotPages::Copy(int32_t from, int32_t to, SchedulerOutput& output) {
  output.page_copies.push_back({from, to});
  copied_.push_back(from);
}

void SlotPages::ReleaseCopied() {
  pool_->Release(copied_);
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
    output.page_updates.push_back({slot, row, index, 1});
  });
}

void SlotPages::Grow(int slot, const RetentionTable& retention, int boundary, int n,
                     SchedulerOutput& output) {
  int32_t* count = counts(slot);
  int64_t growth = 0;
  for (int row = 0; row < shape_.num_rows; ++row) {
    wanted_[row] = PagesFor(retention.PeakLength(row, boundary, n));
    const int more = wanted_[row] - count[row];
    if (more <= 0) continue;
    output.page_updates.push_back({slot, row, count[row], more});
    growth += more;
  }
  pages_.resize(growth);
  pool_->Take(pages_);
  for (auto page = pages_.begin(); page != pages_.end();) {
    for (int row = 0; row < shape_.num_rows; ++row) {
      if (count[row] < wanted_[row]) table_.row(slot, row)[count[row]++] = *page++;
    }
  }
  totals_[slot] += growth;
}

void SlotPages::Trim(int slot, const RetentionTable& retention, int n) {
  for (int row = 0; row < shape_.num_rows; ++row) {
    int32_t& count = counts(slot)[row];
    const int wanted = PagesFor(retention.Length(row, n));
    if (count <= wanted) continue;
    pool_->Release(std::span(table_.row(slot, row), count).subspan(wanted));
    totals_[slot] -= count - wanted;
    count = wanted;
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
