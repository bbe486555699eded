#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace tangram {

// retained(row, b): the tokens that each row holds after compression at boundary b, for one ratio. The length of a row follows from
// the position alone (design: "the central rule").
class RetentionTable {
 public:
  // Keeps everything: retained(row, b) = b. Boundaries are every `chunk` tokens.
  static RetentionTable Full(int num_rows, int chunk);
  // From the table itself: retained[(i - 1) * num_rows + row] at boundary i * chunk, i >= 1.
  RetentionTable(int num_rows, int chunk, std::vector<int32_t> retained);

  bool full() const { return retained_.empty(); }
  int num_rows() const { return num_rows_; }
  int chunk() const { return chunk_; }
  int Retained(int row, int boundary) const;
  // Tokens that the row holds with n processed, n >= 0: what the attention of token n-1 read.
  int Length(int row, int n) const;
  // Sum over rows of ceil(Length(row, n) / page_size): the page equation.
  int64_t Pages(int n, int page_size) const;

 private:
  int num_rows_, chunk_;
  std::vector<int32_t> retained_;
};

}  // namespace tangram
