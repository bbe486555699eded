#include "paging/page_pool.h"

#include <algorithm>
#include <iterator>
#include <numeric>

#include "base/check.h"

namespace tangram {

PagePool::PagePool(int64_t num_pages) : refs_(num_pages), free_(num_pages), num_free_(num_pages) {
  std::iota(free_.rbegin(), free_.rend(), 0);
}

void PagePool::Take(std::span<int32_t> pages) {
  TANGRAM_CHECK(std::ssize(pages) <= num_free_, "{} free pages of {}, not {}", num_free_, size(),
                pages.size());
  num_free_ -= std::ssize(pages);
  std::copy_n(free_.begin() + num_free_, pages.size(), pages.begin());
  for (const int32_t page : pages) refs_[page].sequence_refs = 1;
}

int32_t PagePool::Take() {
  int32_t page;
  Take({&page, 1});
  return page;
}

void PagePool::AddSequenceRefs(std::span<const int32_t> pages) {
  int64_t evictable = 0;
  for (const int32_t page : pages) {
    Refs& refs = refs_[page];
    TANGRAM_CHECK(refs.sequence_refs + refs.cache_refs > 0, "page {} is free", page);
    evictable += refs.sequence_refs++ == 0;
  }
  num_evictable_ -= evictable;
}

void PagePool::AddCacheRefs(std::span<const int32_t> pages) {
  for (const int32_t page : pages) {
    Refs& refs = refs_[page];
    TANGRAM_CHECK(refs.sequence_refs + refs.cache_refs > 0, "page {} is free", page);
    ++refs.cache_refs;
  }
}

void PagePool::DropSequenceRefs(std::span<const int32_t> pages) {
  int64_t evictable = 0;
  for (const int32_t page : pages) {
    Refs& refs = refs_[page];
    TANGRAM_CHECK(refs.sequence_refs > 0, "page {} is not held", page);
    if (--refs.sequence_refs > 0) continue;
    if (refs.cache_refs > 0) {
      ++evictable;
    } else {
      free_[num_free_++] = page;
    }
  }
  num_evictable_ += evictable;
}

void PagePool::DropCacheRefs(std::span<const int32_t> pages) {
  const int64_t before = num_free_;
  for (const int32_t page : pages) {
    Refs& refs = refs_[page];
    TANGRAM_CHECK(refs.cache_refs > 0, "page {} is not kept", page);
    if (--refs.cache_refs == 0 && refs.sequence_refs == 0) free_[num_free_++] = page;
  }
  num_evictable_ -= num_free_ - before;
}

void PagePool::CheckInvariants(std::span<const int32_t> sequence_refs,
                               std::span<const int32_t> cache_refs) const {
  std::vector<bool> is_free(refs_.size());
  for (const int32_t page : std::span(free_).first(num_free_)) {
    TANGRAM_CHECK(!is_free[page], "page {} is free twice", page);
    is_free[page] = true;
  }
  int64_t evictable = 0;
  for (int64_t page = 0; page < size(); ++page) {
    const Refs& refs = refs_[page];
    TANGRAM_CHECK(refs.sequence_refs == sequence_refs[page] && refs.cache_refs == cache_refs[page],
                  "page {}: {} sequence_refs, counted {}; {} cache_refs, counted {}", page,
                  sequence_refs[page], refs.sequence_refs, cache_refs[page], refs.cache_refs);
    TANGRAM_CHECK(is_free[page] == (refs.sequence_refs + refs.cache_refs == 0),
                  "page {} is free: {}", page, bool(is_free[page]));
    evictable += refs.sequence_refs == 0 && refs.cache_refs > 0;
  }
  TANGRAM_CHECK(evictable == num_evictable_, "{} evictable pages, counted {}", evictable,
                num_evictable_);
}

}  // namespace tangram
