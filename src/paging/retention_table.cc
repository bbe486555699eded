#include "paging/retention_table.h"

#include <algorithm>
#include <numeric>

#include "base/check.h"

namespace tangram {

RetentionTable RetentionTable::Full(int num_rows, int chunk) {
  return RetentionTable(num_rows, chunk);
}

RetentionTable::RetentionTable(int num_rows, int chunk, std::vector<int32_t> retained)
    : num_rows_(num_rows), chunk_(chunk), retained_(std::move(retained)) {
  TANGRAM_CHECK(!retained_.empty() && retained_.size() % num_rows == 0, "{} entries for {} rows",
                retained_.size(), num_rows);
  sums_.resize(retained_.size() / num_rows + 1);
  for (size_t i = 0; i < retained_.size(); ++i) {
    const int before = i < size_t(num_rows) ? 0 : retained_[i - num_rows];
    TANGRAM_CHECK(before <= retained_[i] && retained_[i] <= before + chunk,
                  "row {} goes from {} to {} tokens at boundary {}", i % num_rows, before,
                  retained_[i], i / num_rows + 1);
    sums_[i / num_rows + 1] += retained_[i];
    unit_ = std::gcd(unit_, retained_[i]);
  }
}

int RetentionTable::Retained(int row, int boundary) const {
  if (full() || boundary == 0) return boundary;
  return retained_[size_t(boundary / chunk_ - 1) * num_rows_ + row];
}

int64_t RetentionTable::Pages(int n, int page_size) const { return PeakPages(n, n, page_size); }

int RetentionTable::PeakLength(int row, int from, int to) const {
  const int length = Length(row, to), boundary = Boundary(to);
  if (full() || boundary == 0 || from > boundary) return length;
  return std::max(length, Retained(row, boundary - chunk_) + chunk_);
}

int64_t RetentionTable::PeakPages(int from, int to, int page_size) const {
  const auto pages = [&](int length) { return (length + page_size - 1) / page_size; };
  if (full()) return int64_t{num_rows_} * pages(to);
  const int boundary = Boundary(to);
  const bool crosses = boundary > 0 && from <= boundary;
  if (!crosses && unit_ % page_size == 0) {
    return sums_[boundary / chunk_] / page_size + int64_t{num_rows_} * pages(to - boundary);
  }
  int64_t sum = 0;
  for (int row = 0; row < num_rows_; ++row) sum += pages(PeakLength(row, from, to));
  return sum;
}

}  // namespace tangram
