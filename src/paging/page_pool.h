#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace tangram {

// Who uses each page: running sequences hold it, entries of the prefix cache keep it, or it is
// free. Ids are [0, size). Pages come and go in thousands, so they are counted many at a time.
class PagePool {
 public:
  explicit PagePool(int64_t num_pages);

  int64_t size() const { return static_cast<int64_t>(users_.size()); }
  int64_t num_free() const { return num_free_; }
  // Pages that only cache entries use: eviction can free them.
  int64_t num_evictable() const { return num_evictable_; }
  int64_t num_held() const { return size() - num_free() - num_evictable(); }

  // Free pages, each now held once. There are as many.
  void Take(std::span<int32_t> pages);
  int32_t Take();
  // Each page has users.
  void Hold(std::span<const int32_t> pages);
  void Keep(std::span<const int32_t> pages);
  // Each page is held (once more for each time that it is named), or kept.
  void Release(std::span<const int32_t> pages);
  void Drop(std::span<const int32_t> pages);

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
  std::vector<int32_t> free_;  // a stack of num_free_: what was freed last is warm
  int64_t num_free_, num_evictable_ = 0;
};

}  // namespace tangram
