#pragma once

#include <algorithm>
#include <cstdint>
#include <random>
#include <vector>

#include "ops/backend.h"
#include "ops/kv_element.h"

// Small shapes, and a sequence of them, that tests of the compression ops share.
namespace tangram::ops::compressed {

constexpr int kPageSize = 16, kGroupSize = 3, kLayers = 2, kHeads = 3, kAllHeads = kLayers * kHeads;
constexpr int kDim = 8, kGroups = 2, kMaxPages = 16, kNumPages = 40;
constexpr int kWindow = 8, kSinks = 4, kChunk = 64, kBoundaries = 8;

// One sequence (slot 1 of 2, retention 1 of 2) whose heads, counted over the layers, lie in columns
// of two groups, its pages in random order.
class Sequence {
 public:
  static constexpr int kSlot = 1, kRetention = 1;

  Sequence(Backend& backend, DType dtype, uint32_t seed)
      : backend_(backend),
        random_(seed),
        ids_(2 * kGroups * kMaxPages, -1),
        retained_(2 * kBoundaries * kGroups),
        scores_(kNumPages * kGroupSize * kPageSize) {
    buffer_ =
        backend.Allocate(BytesFor(dtype, int64_t{kNumPages} * kGroupSize * 2 * kPageSize * kDim));
    kv_ = {.pool = buffer_.data(),
           .dtype = dtype,
           .page_size = kPageSize,
           .group_size = kGroupSize,
           .head_dim = kDim,
           .num_pages = kNumPages,
           .page_table = ids_.data(),
           .num_groups = kGroups,
           .max_pages = kMaxPages,
           .num_kv_heads = kHeads};
    kv_.heads = kv_.host_heads = {group_.data(), column_.data()};
    kv_.retention = kv_.host_retention = {retained_.data(), kBoundaries, kGroups, kChunk};
    std::vector<int32_t> pages(kNumPages);
    for (int i = 0; i < kNumPages; ++i) pages[static_cast<size_t>(i)] = i;
    std::ranges::shuffle(pages, random_);
    std::copy_n(pages.begin(), kGroups * kMaxPages, ids_.begin() + kv_.Place(kSlot, 0));
  }

  struct Token {
    std::vector<float> key, value;
    float score;
    bool operator==(const Token&) const = default;
  };

  // Appends tokens with random contents to every head's row; scores from `score`.
  template <class ScoreOf>
  void Append(int count, ScoreOf score) {
    AppendGroups({count, count}, score);
  }
  // The same, a number for each group.
  template <class ScoreOf>
  void AppendGroups(const std::vector<int32_t>& counts, ScoreOf score) {
    std::normal_distribution<float> normal;
    for (int h = 0; h < kAllHeads; ++h) {
      auto& length = length_[static_cast<size_t>(h)];
      for (int i = 0; i < counts[static_cast<size_t>(group(h))]; ++i, ++length) {
        for (int j = 0; j < kDim; ++j) {
          StoreKv(kv_, KeyIndex(h, length, j), normal(random_));
          StoreKv(kv_, ValueIndex(h, length, j), normal(random_));
        }
        scores_[static_cast<size_t>(Place(h, length))] = score(random_);
      }
    }
  }

  Token Read(int head, int token) const {
    Token t{std::vector<float>(kDim), std::vector<float>(kDim),
            scores_[static_cast<size_t>(Place(head, token))]};
    for (int j = 0; j < kDim; ++j) {
      t.key[static_cast<size_t>(j)] = LoadKv(kv_, KeyIndex(head, token, j));
      t.value[static_cast<size_t>(j)] = LoadKv(kv_, ValueIndex(head, token, j));
    }
    return t;
  }
  std::vector<Token> ReadRow(int head) const {
    std::vector<Token> row;
    for (int i = 0; i < length_[static_cast<size_t>(head)]; ++i) row.push_back(Read(head, i));
    return row;
  }

  // What each group keeps at a boundary.
  void Retain(int boundary, const std::vector<int32_t>& retained) {
    std::ranges::copy(retained, retained_.begin() + (kBoundaries + boundary / kChunk) * kGroups);
  }
  // A round of a step of `num_tokens`, in which the sequence has one span.
  LayerRound Begin(const SequenceSpan& span, int num_tokens, int layer) {
    input_.Clear();
    input_.tokens.assign(static_cast<size_t>(num_tokens), 0);
    input_.positions = input_.slots = input_.retentions = input_.tokens;
    for (int i = 0; i < span.num_tokens; ++i) {
      input_.positions[static_cast<size_t>(span.first_token + i)] = span.position + i;
    }
    input_.rounds = {{0, 0, 0, 0}, {0, 1, 0, 0}};
    input_.spans = {span};
    return {&backend_.Begin(input_, kv_, scores_.data()), 1, layer};
  }
  // At a boundary, behind another sequence that stands at one; the layers from `first_layer` on.
  BoundaryRange Begin(int boundary, int first_layer = 0) {
    input_.Clear();
    input_.rounds = {{0, 0, 0, 0}, {0, 0, 0, 2}};
    input_.boundaries = {{0, 0, kChunk}, {kSlot, kRetention, boundary}};
    const Step& step = backend_.Begin(input_, kv_, scores_.data());
    return {&step, 1, 1, 1, first_layer, kLayers - first_layer};
  }
  void Compact(int boundary, const std::vector<int32_t>& kept) {
    Retain(boundary, kept);
    backend_.Compact({Begin(boundary), kWindow, kSinks, scores_.data()});
    for (int h = 0; h < kAllHeads; ++h) {
      length_[static_cast<size_t>(h)] = kept[static_cast<size_t>(group(h))];
    }
  }
  // `p` but for the sequence.
  void Score(int boundary, ScoreParams p, int first_layer = 0) {
    p.at = Begin(boundary, first_layer);
    p.window = kWindow;
    p.pool_scores = scores_.data();
    backend_.Score(p);
  }

  float* scores() { return scores_.data(); }
  int group(int head) const { return group_[static_cast<size_t>(head)]; }

 private:
  int64_t VirtualPage(int head, int token) const {
    const int64_t entry = kv_.Place(kSlot, group(head)) + token / kPageSize;
    return int64_t{ids_[static_cast<size_t>(entry)]} * kGroupSize +
           column_[static_cast<size_t>(head)];
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
  std::vector<int32_t> ids_, retained_;
  std::vector<float> scores_;
  Buffer buffer_;
  KvView kv_{};
  // [L][Hkv]
  std::vector<int32_t> group_ = {1, 0, 1, 0, 1, 0}, column_ = {1, 0, 2, 2, 0, 1};
  std::vector<int> length_ = std::vector<int>(kAllHeads);
  StepInput input_;
};

}  // namespace tangram::ops::compressed
