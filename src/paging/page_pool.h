#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/check.h"

namespace tangram {

// Who uses each page: running sequences hold it, entries of the prefix cache keep it, or it is
// free. Ids are [0, size).
class PagePool {
 public:
  explicit PagePool(int64_t num_pages);

  int64_t size() const { return static_cast<int64_t>(users_.size()); }
  int64_t num_free() const { return static_cast<int64_t>(free_.size()); }
  // Pages that only cache entries use: eviction can free them.
  int64_t num_evictable() const { return num_evictable_; }
  int64_t num_held() const { return size() - num_free() - num_evictable(); }

  // A free page, now held once. There is one.
  int32_t Take() {
    TANGRAM_CHECK(!free_.empty(), "no free page of {}", size());
    const int32_t page = free_.back();
    free_.pop_back();
    users_[page].holders = 1;
    return page;
  }
  void Hold(int32_t page) {
    Users& users = users_[page];
    TANGRAM_CHECK(users.holders + users.keepers > 0, "page {} is free", page);
    if (users.holders++ == 0) --num_evictable_;
  }
  void Release(int32_t page) {
    Users& users = users_[page];
    TANGRAM_CHECK(users.holders > 0, "page {} is not held", page);
    if (--users.holders > 0) return;
    if (users.keepers > 0) {
      ++num_evictable_;
    } else {
      free_.push_back(page);
    }
  }
  void Keep(int32_t page) {
    Users& users = users_[page];
    TANGRAM_CHECK(users.holders + users.keepers > 0, "page {} is free", page);
    ++users.keepers;
  }
  void Drop(int32_t page) {
    Users& users = users_[page];
    TANGRAM_CHECK(users.keepers > 0, "page {} is not kept", page);
    if (--users.keepers > 0 || users.holders > 0) return;
    --num_evictable_;
    free_.push_back(page);
  }

  int holders(int32_t page) const { return users_[page].holders; }
  int keepers(int32_t page) const { return users_[page].keepers; }

  // Aborts unless every page has these users, or is free if it has none, and all is counted right.
  // O(size).
  void CheckInvariants(std::span<const int32_t> holders, std::span<const int32_t> keepers) const;

 private:
  struct Users {
    int32_t holders = 0, keepers = 0;
  };
  std::vector<Users> users_;
  std::vector<int32_t> free_;  // a stack: what was freed last is warm
  int64_t num_evictable_ = 0;
};

}  // namespace tangram
