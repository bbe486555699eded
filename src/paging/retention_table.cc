#include "paging/retention_table.h"

#include <algorithm>
#include <limits>
#include <numeric>

#include "base/check.h"

namespace tangram {

RetentionTable RetentionTable::Full(int num_groups, int chunk) {
  return RetentionTable(num_groups, chunk);
}

RetentionTable::RetentionTable(int num_groups, int chunk, int percent,
                               std::vector<int32_t> retained)
    : num_groups_(num_groups), chunk_(chunk), percent_(percent), retained_(std::move(retained)) {
  TANGRAM_CHECK(!retained_.empty() && retained_.size() % num_groups == 0,
                "{} entries for {} groups", retained_.size(), num_groups);
  sums_.resize(retained_.size() / num_groups + 1);
  longest_.resize(sums_.size());
  for (size_t i = 0; i < retained_.size(); ++i) {
    const int before = i < size_t(num_groups) ? 0 : retained_[i - num_groups];
    TANGRAM_CHECK(before <= retained_[i] && retained_[i] <= before + chunk,
                  "group {} goes from {} to {} tokens at boundary {}", i % num_groups, before,
                  retained_[i], i / num_groups + 1);
    sums_[i / num_groups + 1] += retained_[i];
    int32_t& longest = longest_[i / num_groups + 1];
    longest = std::max(longest, retained_[i]);
    unit_ = std::gcd(unit_, retained_[i]);
  }
}

int RetentionTable::max_tokens() const {
  return full() ? std::numeric_limits<int>::max() : static_cast<int>(sums_.size()) * chunk_;
}

double RetentionTable::MeanLength(int n) const {
  const int boundary = Boundary(n);
  return static_cast<double>(RetainedSum(boundary)) / num_groups_ + n - boundary;
}

int RetentionTable::PeakLength(int group, int boundary, int n) const {
  const int length = Length(group, n), last = Boundary(n);
  return last <= boundary ? length : std::max(length, Retained(group, last - chunk_) + chunk_);
}

int64_t RetentionTable::PeakPages(int boundary, int n, int page_size) const {
  const auto pages = [&](int length) { return (length + page_size - 1) / page_size; };
  if (full()) return int64_t{num_groups_} * pages(n);
  const int last = Boundary(n);
  if (last <= boundary && unit_ % page_size == 0) {
    return RetainedSum(last) / page_size + int64_t{num_groups_} * pages(n - last);
  }
  int64_t sum = 0;
  for (int group = 0; group < num_groups_; ++group) sum += pages(PeakLength(group, boundary, n));
  return sum;
}

}  // namespace tangram
