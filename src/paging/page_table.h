#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

namespace tangram {

// Page ids of all slots in one array, [slots][rows][max_pages_per_row], as kernels read it.
class PageTable {
 public:
  PageTable(int num_slots, int num_rows, int max_pages_per_row);

  int num_rows() const { return num_rows_; }
  int max_pages_per_row() const { return max_pages_per_row_; }
  const int32_t* data() const { return ids_.get(); }
  int32_t* row(int slot, int row) {
    return ids_.get() + (size_t(slot) * num_rows_ + row) * max_pages_per_row_;
  }
  const int32_t* row(int slot, int row) const {
    return ids_.get() + (size_t(slot) * num_rows_ + row) * max_pages_per_row_;
  }

 private:
  int num_slots_, num_rows_, max_pages_per_row_;
  struct Free {
    void operator()(int32_t* p) const;
  };
  std::unique_ptr<int32_t[], Free> ids_;  // calloc: what no sequence reaches is never touched
};

}  // namespace tangram
