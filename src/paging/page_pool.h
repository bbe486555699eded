#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace tangram {

// Who refers to each page: running sequences, entries of the prefix cache, or nobody: then it is
// free. Ids are [0, size). Pages come and go in thousands, so they are counted many at a time.
class PagePool {
 public:
  explicit PagePool(int64_t num_pages);

  int64_t size() const { return static_cast<int64_t>(refs_.size()); }
  int64_t num_free() const { return num_free_; }
  // Pages that only cache entries use: eviction can free them.
  int64_t num_evictable() const { return num_evictable_; }
  int64_t num_in_sequences() const { return size() - num_free() - num_evictable(); }

  // Free pages, each with one reference of a sequence now. There are as many.
  void Take(std::span<int32_t> pages);
  int32_t Take();
  // Each page has references.
  void AddSequenceRefs(std::span<const int32_t> pages);
  void AddCacheRefs(std::span<const int32_t> pages);
  // Each page has such references, one for each time that it is named.
  void DropSequenceRefs(std::span<const int32_t> pages);
  void DropCacheRefs(std::span<const int32_t> pages);

  int sequence_refs(int32_t page) const { return refs_[page].sequence_refs; }
  int cache_refs(int32_t page) const { return refs_[page].cache_refs; }

  // Aborts unless every page has these references, or is free if it has none, and all is counted
  // right. O(size).
  void CheckInvariants(std::span<const int32_t> sequence_refs,
                       std::span<const int32_t> cache_refs) const;

 private:
  struct Refs {
    int32_t sequence_refs = 0, cache_refs = 0;
  };
  std::vector<Refs> refs_;
  std::vector<int32_t> free_;  // a stack of num_free_: what was freed last is warm
  int64_t num_free_, num_evictable_ = 0;
};

}  // namespace tangram
