#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace tangram {

// retained(group, b): the tokens that each group holds after compression at boundary b, for one
// ratio. The length of a group follows from the position alone (design: "the central rule").
// retained(group, 0) = 0, and from boundary to boundary a group grows by 0 to `chunk` tokens.
class RetentionTable {
 public:
  static constexpr int kFullPercent = 100;

  // Keeps everything: retained(group, b) = b, at any length.
  static RetentionTable Full(int num_groups, int chunk);
  // From the table itself: retained[(i - 1) * num_groups + group] at boundary i * chunk, i >= 1.
  // `percent` is the ratio that it was made for.
  RetentionTable(int num_groups, int chunk, int percent, std::vector<int32_t> retained);

  bool full() const { return retained_.empty(); }
  int num_groups() const { return num_groups_; }
  int chunk() const { return chunk_; }
  int percent() const { return percent_; }
  // Divides all retained lengths; 0 if it keeps everything.
  int unit() const { return unit_; }
  // The largest n that it knows the lengths of.
  int max_tokens() const;
  // The boundary whose compression the attention of token n-1 sees: C * floor((n-1)/C). 0 if
  // nothing is ever compressed, or n = 0.
  int Boundary(int n) const { return full() || n == 0 ? 0 : (n - 1) / chunk_ * chunk_; }
  int Retained(int group, int boundary) const {
    return full() || boundary == 0
               ? boundary
               : retained_[std::size_t(boundary / chunk_ - 1) * num_groups_ + group];
  }
  // Tokens that the group holds with n processed, n >= 0: what the attention of token n-1 read.
  int Length(int group, int n) const { return Retained(group, Boundary(n)) + n - Boundary(n); }
  // Mean of Length(group, n) over groups: resident tokens.
  double MeanLength(int n) const;
  // Length of the longest group with n tokens processed.
  int LongestLength(int n) const {
    const int boundary = Boundary(n);
    return (boundary == 0 ? 0 : longest_[boundary / chunk_]) + n - boundary;
  }
  // Sum over groups of Retained(group, boundary).
  int64_t RetainedSum(int boundary) const {
    return full() ? int64_t{num_groups_} * boundary : sums_[boundary / chunk_];
  }
  // Sum over groups of ceil(Length(group, n) / page_size): the page equation.
  int64_t Pages(int n, int page_size) const { return PeakPages(Boundary(n), n, page_size); }
  // Tokens that the group needs room for when a step goes on to n from a state compressed at
  // `boundary`: if it crosses another, a whole chunk is there until that one is compressed.
  int PeakLength(int group, int boundary, int n) const;
  // Sum over groups of ceil(PeakLength(group, boundary, n) / page_size). Never less for a larger n.
  int64_t PeakPages(int boundary, int n, int page_size) const;

 private:
  RetentionTable(int num_groups, int chunk) : num_groups_(num_groups), chunk_(chunk) {}

  int num_groups_, chunk_, percent_ = kFullPercent;
  std::vector<int32_t> retained_;
  std::vector<int64_t> sums_;     // of retained_ over groups, by boundary, from 0
  std::vector<int32_t> longest_;  // of retained_ over groups, likewise
  int unit_ = 0;                  // divides all of retained_: then whole pages add up
};

}  // namespace tangram
