#pragma once

#include <cstdint>
#include <span>
#include <vector>

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
  int32_t Take();
  void Hold(int32_t page);
  void Release(int32_t page);
  void Keep(int32_t page);
  void Drop(int32_t page);

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
