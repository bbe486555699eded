#include "paging/page_pool.h"

#include "base/check.h"

namespace tangram {

PagePool::PagePool(int64_t num_pages) : users_(num_pages) {
  free_.reserve(num_pages);
  for (int64_t page = num_pages; page-- > 0;) free_.push_back(static_cast<int32_t>(page));
}

void PagePool::CheckInvariants(std::span<const int32_t> holders,
                               std::span<const int32_t> keepers) const {
  std::vector<bool> is_free(users_.size());
  for (const int32_t page : free_) {
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
