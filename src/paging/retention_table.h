#pragma once

#include <cstdint>
#include <vector>

namespace tangram {

// retained(row, b): the tokens that each row holds after compression at boundary b, for one ratio.
// The length of a row follows from the position alone (design: "the central rule"). retained(row,
// 0) = 0, and from boundary to boundary a row grows by 0 to `chunk` tokens.
class RetentionTable {
 public:
  // Keeps everything: retained(row, b) = b, at any length.
  static RetentionTable Full(int num_rows, int chunk);
  // From the table itself: retained[(i - 1) * num_rows + row] at boundary i * chunk, i >= 1.
  RetentionTable(int num_rows, int chunk, std::vector<int32_t> retained);

  bool full() const { return retained_.empty(); }
  int num_rows() const { return num_rows_; }
  int chunk() const { return chunk_; }
  // The boundary whose compression the attention of token n-1 sees: C * floor((n-1)/C); 0 for n =
  // 0.
  int Boundary(int n) const { return n > 0 ? (n - 1) / chunk_ * chunk_ : 0; }
  int Retained(int row, int boundary) const;
  // Tokens that the row holds with n processed, n >= 0: what the attention of token n-1 read.
  int Length(int row, int n) const {
    return full() ? n : Retained(row, Boundary(n)) + n - Boundary(n);
  }
  // Sum over rows of ceil(Length(row, n) / page_size): the page equation.
  int64_t Pages(int n, int page_size) const;
  // Tokens that the row needs room for during a step that processes [from, to): the last chunk is
  // whole until the boundary at its end compresses it.
  int PeakLength(int row, int from, int to) const;
  // Sum over rows of ceil(PeakLength(row, from, to) / page_size). Never less for a larger `to`.
  int64_t PeakPages(int from, int to, int page_size) const;

 private:
  RetentionTable(int num_rows, int chunk) : num_rows_(num_rows), chunk_(chunk) {}

  int num_rows_, chunk_;
  std::vector<int32_t> retained_;
  std::vector<int64_t> sums_;  // of retained_ over rows, by boundary, from 0
  int unit_ = 0;               // divides all of retained_: then whole pages add up
};

}  // namespace tangram
