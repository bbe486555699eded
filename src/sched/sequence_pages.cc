#include "sched/sequence_pages.h"

#include <algorithm>
#include <iterator>

#include "base/check.h"

namespace tangram {

SequencePages::SequencePages(Shape shape, PagePool* pool)
    : shape_(shape),
      pool_(pool),
      table_(shape.num_slots, shape.num_groups, shape.max_pages),
      counts_(size_t(shape.num_slots) * shape.num_groups),
      totals_(shape.num_slots),
      wanted_(shape.num_groups) {
  for (int slot = shape.num_slots; slot-- > 0;) free_slots_.push_back(slot);
}

int SequencePages::TakeSlot() {
  TANGRAM_CHECK(!free_slots_.empty(), "no free slot");
  const int slot = free_slots_.back();
  free_slots_.pop_back();
  return slot;
}

void SequencePages::GiveSlot(int slot) {
  int32_t* count = counts(slot);
  pages_.resize(totals_[slot]);
  for (auto page = pages_.begin(); page != pages_.end();) {
    for (int group = shape_.num_groups; group-- > 0;) {
      if (count[group] > 0) *page++ = table_.group(slot, group)[--count[group]];
    }
  }
  pool_->DropSequenceRefs(pages_);
  totals_[slot] = 0;
  free_slots_.push_back(slot);
}

int SequencePages::Immutable(const RetentionTable& retention, int group, int boundary) const {
  return std::max(0, retention.Retained(group, boundary) - shape_.window) / shape_.page_size;
}

SequencePages::Reuse SequencePages::CountReuse(const PrefixCache::Match& match,
                                               const RetentionTable& retention, int n) const {
  Reuse reuse;
  const auto count = [&](int32_t page) {
    ++reuse.pages;
    reuse.evictable += pool_->sequence_refs(page) == 0;
  };
  const bool crosses = retention.Boundary(n) > match.boundary;
  const int32_t* page = match.top != nullptr ? match.top->pages.data() : nullptr;
  for (int group = 0; group < shape_.num_groups && page != nullptr; ++group) {
    const int num_pages = retention.Retained(group, match.boundary) / shape_.page_size;
    std::for_each_n(page, crosses ? Immutable(retention, group, match.boundary) : num_pages, count);
    page += num_pages;
  }
  for (const auto pages : match.shared) {
    if (!crosses) std::ranges::for_each(pages, count);
  }
  for (const int32_t p : match.copied) reuse.evictable += pool_->sequence_refs(p) == 0;
  return reuse;
}

void SequencePages::Adopt(int slot, const PrefixCache::Match& match,
                          const RetentionTable& retention, SchedulerOutput& output) {
  if (match.top != nullptr) {
    pool_->AddSequenceRefs(match.top->pages);
    const int32_t* page = match.top->pages.data();
    for (int group = 0; group < shape_.num_groups; ++group) {
      const int num_pages = retention.Retained(group, match.boundary) / shape_.page_size;
      std::copy_n(page, num_pages, table_.group(slot, group));
      page += counts(slot)[group] = num_pages;
    }
    totals_[slot] = std::ssize(match.top->pages);
  }
  for (const auto pages : match.shared) {
    pool_->AddSequenceRefs(pages);
    AppendBlock(slot, pages);
  }
  for (int group = 0; group < shape_.num_groups; ++group) {
    if (const int count = counts(slot)[group]; count > 0) {
      Tell(slot, group, 0, count, output);
    }
  }
  pool_->AddSequenceRefs(match.copied);
}

void SequencePages::CopyLast(int slot, const PrefixCache::Match& match, SchedulerOutput& output) {
  pages_.resize(shape_.num_groups);
  pool_->Take(pages_);
  for (int group = 0; group < shape_.num_groups; ++group) {
    Copy(match.copied[group], pages_[group], output);
  }
  AppendBlock(slot, pages_);
  for (int group = 0; group < shape_.num_groups; ++group) {
    Tell(slot, group, counts(slot)[group] - 1, 1, output);
  }
}

void SequencePages::AppendBlock(int slot, std::span<const int32_t> pages) {
  int32_t* count = counts(slot);
  for (int group = 0; group < shape_.num_groups; ++group) {
    table_.group(slot, group)[count[group]++] = pages[group];
  }
  totals_[slot] += shape_.num_groups;
}

// `from` is held once for the copy.
void SequencePages::Copy(int32_t from, int32_t to, SchedulerOutput& output) {
  output.page_copies.push_back({from, to});
  copied_.push_back(from);
}

void SequencePages::ReleaseCopied() {
  pool_->DropSequenceRefs(copied_);
  copied_.clear();
}

template <class Visit>
void SequencePages::ForSharedWrites(int slot, const RetentionTable& retention, int boundary, int n,
                                    Visit visit) const {
  if (retention.Boundary(n) <= boundary) return;
  const int next = boundary + retention.chunk();
  for (int group = 0; group < shape_.num_groups; ++group) {
    // What is compressed at `next` is written up to what the step leaves there; behind that it is
    // only read.
    const int end = std::min(counts(slot)[group], PagesFor(retention.PeakLength(group, next, n)));
    for (int i = Immutable(retention, group, boundary); i < end; ++i) {
      const int32_t page = table_.group(slot, group)[i];
      if (pool_->sequence_refs(page) + pool_->cache_refs(page) > 1) visit(group, i);
    }
  }
}

int64_t SequencePages::CountSharedWrites(int slot, const RetentionTable& retention, int boundary,
                                         int n) const {
  int64_t count = 0;
  ForSharedWrites(slot, retention, boundary, n, [&](int, int) { ++count; });
  return count;
}

void SequencePages::CopySharedWrites(int slot, const RetentionTable& retention, int boundary, int n,
                                     SchedulerOutput& output) {
  ForSharedWrites(slot, retention, boundary, n, [&](int group, int index) {
    int32_t& id = table_.group(slot, group)[index];
    const int32_t to = pool_->Take();
    Copy(id, to, output);
    id = to;
    Tell(slot, group, index, 1, output);
  });
}

void SequencePages::Grow(int slot, const RetentionTable& retention, int boundary, int n,
                         SchedulerOutput& output) {
  int32_t* count = counts(slot);
  int64_t growth = 0;
  for (int group = 0; group < shape_.num_groups; ++group) {
    wanted_[group] = PagesFor(retention.PeakLength(group, boundary, n));
    growth += std::max(0, wanted_[group] - count[group]);
  }
  pages_.resize(growth);
  pool_->Take(pages_);
  auto page = pages_.begin();
  for (int group = 0; group < shape_.num_groups; ++group) {  // a group's pages one behind the other
    int32_t* row = table_.group(slot, group);
    for (; count[group] < wanted_[group]; ++count[group], ++page) {
      const int64_t place = table_.Place(slot, group) + count[group];
      output.page_writes.push_back({static_cast<int32_t>(place), *page});
      row[count[group]] = *page;
    }
  }
  totals_[slot] += growth;
}

void SequencePages::Tell(int slot, int group, int first, int count, SchedulerOutput& output) const {
  const int64_t place = table_.Place(slot, group);
  const int32_t* pages = table_.group(slot, group);
  for (int i = first; i < first + count; ++i) {
    output.page_writes.push_back({static_cast<int32_t>(place + i), pages[i]});
  }
}

void SequencePages::Trim(int slot, const RetentionTable& retention, int boundary, int n) {
  for (int group = 0; group < shape_.num_groups; ++group) {
    int32_t& count = counts(slot)[group];
    const int wanted = PagesFor(retention.Retained(group, boundary) + n - boundary);
    if (count <= wanted) continue;
    pool_->DropSequenceRefs(std::span(table_.group(slot, group), count).subspan(wanted));
    totals_[slot] -= count - wanted;
    count = wanted;
  }
}

void SequencePages::CheckInvariants(int slot, const RetentionTable& retention, int boundary, int n,
                                    std::vector<int32_t>& sequence_refs) const {
  int64_t total = 0;
  for (int group = 0; group < shape_.num_groups; ++group) {
    const int32_t count = counts(slot)[group];
    const int length = retention.Retained(group, boundary) + n - boundary;
    TANGRAM_CHECK(count == PagesFor(length), "slot {} group {} of length {} holds {} pages", slot,
                  group, length, count);
    for (int i = 0; i < count; ++i) ++sequence_refs[table_.group(slot, group)[i]];
    total += count;
  }
  TANGRAM_CHECK(total == totals_[slot], "slot {} holds {} pages, counted {}", slot, total,
                totals_[slot]);
}

}  // namespace tangram
