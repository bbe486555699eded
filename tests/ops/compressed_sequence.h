#pragma once

#include <algorithm>
#include <cstdint>
#include <random>
#include <vector>

#include "ops/backend.h"
#include "ops/kv_element.h"

// Small shapes, and a sequence of them, that tests of the compression ops share.
namespace tangram::ops::compressed {

constexpr int kPageSize = 16, kGroup = 3, kHeads = 3, kDim = 8, kRows = 2, kMaxPages = 16;
constexpr int kWindow = 8, kSinks = 4, kChunk = 64, kNumPages = 40;

// One sequence (slot 1 of 2) whose heads lie in columns of two rows, its pages in random order.
class Sequence {
 public:
  Sequence(Backend& backend, DType dtype, uint32_t seed)
      : backend_(backend),
        random_(seed),
        ids_(2 * kRows * kMaxPages, -1),
        scores_(kNumPages * kGroup * kPageSize) {
    buffer_ = backend.Allocate(BytesFor(dtype, int64_t{kNumPages} * kGroup * 2 * kPageSize * kDim));
    pool_ = {buffer_.data(), dtype, kPageSize, kGroup, kDim, kNumPages};
    std::vector<int32_t> pages(kNumPages);
    for (int i = 0; i < kNumPages; ++i) pages[static_cast<size_t>(i)] = i;
    std::ranges::shuffle(pages, random_);
    for (int row = 0; row < kRows; ++row) {
      for (int i = 0; i < kMaxPages; ++i) {
        ids_[static_cast<size_t>((kRows + row) * kMaxPages + i)] =
            pages[static_cast<size_t>(row * kMaxPages + i)];
      }
    }
  }

  struct Token {
    std::vector<float> key, value;
    float score;
    bool operator==(const Token&) const = default;
  };

  // Appends tokens with random contents to every head's row; scores from `score`.
  template <class ScoreOf>
  void Append(int count, ScoreOf score) {
    AppendRows({count, count}, score);
  }
  // The same, a number for each row.
  template <class ScoreOf>
  void AppendRows(const std::vector<int32_t>& counts, ScoreOf score) {
    std::normal_distribution<float> normal;
    for (int h = 0; h < kHeads; ++h) {
      auto& length = length_[static_cast<size_t>(h)];
      for (int i = 0; i < counts[static_cast<size_t>(row(h))]; ++i, ++length) {
        for (int j = 0; j < kDim; ++j) {
          StoreKv(pool_, KeyIndex(h, length, j), normal(random_));
          StoreKv(pool_, ValueIndex(h, length, j), normal(random_));
        }
        scores_[static_cast<size_t>(Place(h, length))] = score(random_);
      }
    }
  }

  Token Read(int head, int token) const {
    Token t{std::vector<float>(kDim), std::vector<float>(kDim),
            scores_[static_cast<size_t>(Place(head, token))]};
    for (int j = 0; j < kDim; ++j) {
      t.key[static_cast<size_t>(j)] = LoadKv(pool_, KeyIndex(head, token, j));
      t.value[static_cast<size_t>(j)] = LoadKv(pool_, ValueIndex(head, token, j));
    }
    return t;
  }
  std::vector<Token> ReadRow(int head) const {
    std::vector<Token> row;
    for (int i = 0; i < length_[static_cast<size_t>(head)]; ++i) row.push_back(Read(head, i));
    return row;
  }

  // Rows 0 and 1 keep different numbers; heads 0 and 2 lie in row 0, head 1 in row 1.
  void Compact(const std::vector<int32_t>& locked, const std::vector<int32_t>& kept) {
    const auto lengths = RowLengths();
    const BoundarySpan span{1, kChunk, locked.data(), lengths.data(), kept.data()};
    backend_.Compact({kHeads, kWindow, pool_, scores_.data(), pages(), heads(), {&span, 1}});
    backend_.Synchronize();
    for (size_t h = 0; h < kHeads; ++h) length_[h] = kept[static_cast<size_t>(row_[h])];
  }
  void Score(ScoreMethod method, const std::vector<int32_t>& locked, int boundary = kChunk,
             const QueryScoring& queries = {}, const float* state = nullptr,
             const RopeView& rope = {}) {
    const auto lengths = RowLengths();
    const BoundarySpan span{1, boundary, locked.data(), lengths.data(), lengths.data()};
    backend_.Score({method,
                    kHeads,
                    kWindow,
                    pool_,
                    scores_.data(),
                    pages(),
                    heads(),
                    {&span, 1},
                    queries,
                    state,
                    rope});
    backend_.Synchronize();
  }
  void AppendScores(const TensorView& scores, const std::vector<int32_t>& history, int count) {
    const SequenceSpan span{1, 2, count, history.data()};
    backend_.AppendScores({scores, pool_, scores_.data(), pages(), heads(), {&span, 1}});
    backend_.Synchronize();
  }

  const KvPoolView& pool() const { return pool_; }
  PageTableView pages() const { return {ids_.data(), kRows, kMaxPages}; }
  LayerHeadMap heads() const { return {row_.data(), column_.data()}; }
  int row(int head) const { return row_[static_cast<size_t>(head)]; }

 private:
  std::vector<int32_t> RowLengths() const { return {length_[0], length_[1]}; }
  int64_t VirtualPage(int head, int token) const {
    const int64_t entry = (kRows + row(head)) * kMaxPages + token / kPageSize;
    return int64_t{ids_[static_cast<size_t>(entry)]} * kGroup + column_[static_cast<size_t>(head)];
  }
  int64_t Place(int head, int token) const {
    return VirtualPage(head, token) * kPageSize + token % kPageSize;
  }
  int64_t KeyIndex(int head, int token, int j) const {
    const int64_t base = VirtualPage(head, token) * 2 * kPageSize * kDim;
    const int offset = token % kPageSize;
    return base + (backend_.transposed_keys() ? j * kPageSize + offset : offset * kDim + j);
  }
  int64_t ValueIndex(int head, int token, int j) const {
    return (VirtualPage(head, token) * 2 + 1) * kPageSize * kDim + token % kPageSize * kDim + j;
  }

  Backend& backend_;
  std::mt19937 random_;
  std::vector<int32_t> ids_;
  std::vector<float> scores_;
  Buffer buffer_;
  KvPoolView pool_{};
  std::vector<int32_t> row_ = {0, 1, 0}, column_ = {2, 0, 1};
  std::vector<int> length_ = {0, 0, 0};
};

}  // namespace tangram::ops::compressed
