#include "paging/page_pool.h"

#include <algorithm>
#include <iterator>
#include <numeric>

#include "base/check.h"

namespace tangram {

PagePool::PagePool(int64_t num_pages) : users_(num_pages), free_(num_pages), num_free_(num_pages) {
  std::iota(free_.rbegin(), free_.rend(), 0);
}

void PagePool::Take(std::span<int32_t> pages) {
  TANGRAM_CHECK(std::ssize(pages) <= num_free_, "{} free pages of {}, not {}", num_free_, size(),
                pages.size());
  num_free_ -= std::ssize(pages);
  std::copy_n(free_.begin() + num_free_, pages.size(), pages.begin());
  for (const int32_t page : pages) users_[page].holders = 1;
}

int32_t PagePool::Take() {
  int32_t page;
  Take({&page, 1});
  return page;
}

void PagePool::Hold(std::span<const int32_t> pages) {
  int64_t evictable = 0;
  for (const int32_t page : pages) {
    Users& users = users_[page];
    TANGRAM_CHECK(users.holders + users.keepers > 0, "page {} is free", page);
    evictable += users.holders++ == 0;
  }
  num_evictable_ -= evictable;
}

void PagePool::Keep(std::span<const int32_t> pages) {
  for (const int32_t page : pages) {
    Users& users = users_[page];
    TANGRAM_CHECK(users.holders + users.keepers > 0, "page {} is free", page);
    ++users.keepers;
  }
}

void PagePool::Release(std::span<const int32_t> pages) {
  int64_t evictable = 0;
  for (const int32_t page : pages) {
    Users& users = users_[page];
    TANGRAM_CHECK(users.holders > 0, "page {} is not held", page);
    if (--users.holders > 0) continue;
    if (users.keepers > 0) {
      ++evictable;
    } else {
      free_[num_free_++] = page;
    }
  }
  num_evictable_ += evictable;
}

void PagePool::Drop(std::span<const int32_t> pages) {
  const int64_t before = num_free_;
  for (const int32_t page : pages) {
    Users& users = users_[page];
    TANGRAM_CHECK(users.keepers > 0, "page {} is not kept", page);
    if (--users.keepers == 0 && users.holders == 0) free_[num_free_++] = page;
  }
  num_evictable_ -= num_free_ - before;
}

void PagePool::CheckInvariants(std::span<const int32_t> holders,
                               std::span<const int32_t> keepers) const {
  std::vector<bool> is_free(users_.size());
  for (const int32_t page : std::span(free_).first(num_free_)) {
    TANGRAM_CHECK(!is_free[page], "page {} is free twice", page);
    is_free[page] = true;
  }
  int64_t evictable = 0;
  for (int64_t page = 0; page < size(); ++page) {
    const Users& users = users_[page];
    TANGRAM_CHECK(users.holders == holders[page] && users.keepers == keepers[page],
                  "page {}: {} holders, counted {}; {} keepers, counted {}", page, holders[page],
                  users.holders, keepers[page], users.keepers);
    TANGRAM_CHECK(is_free[page] == (users.holders + users.keepers == 0), "page {} is free: {}",
                  page, bool(is_free[page]));
    evictable += users.holders == 0 && users.keepers > 0;
  }
  TANGRAM_CHECK(evictable == num_evictable_, "{} evictable pages, counted {}", evictable,
                num_evictable_);
}

}  // namespace tangram
