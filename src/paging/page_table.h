#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

namespace tangram {

// Page ids of all slots in one array, [slots][groups][max_pages], as kernels read it.
class PageTable {
 public:
  PageTable(int num_slots, int num_groups, int max_pages);

  int num_groups() const { return num_groups_; }
  int max_pages() const { return max_pages_; }
  const int32_t* data() const { return ids_.get(); }
  // Where a group's pages begin.
  int64_t Place(int slot, int group) const {
    return (int64_t{slot} * num_groups_ + group) * max_pages_;
  }
  int32_t* group(int slot, int group) {
    return ids_.get() + (size_t(slot) * num_groups_ + group) * max_pages_;
  }
  const int32_t* group(int slot, int group) const {
    return ids_.get() + (size_t(slot) * num_groups_ + group) * max_pages_;
  }

 private:
  int num_slots_, num_groups_, max_pages_;
  struct Free {
    void operator()(int32_t* p) const;
  };
  std::unique_ptr<int32_t[], Free> ids_;  // calloc: what no sequence reaches is never touched
};

}  // namespace tangram
