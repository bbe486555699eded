#pragma once

#include <algorithm>
#include <random>
#include <vector>

#include "ops/cuda/case_support.h"
#include "ops/cuda/compress/compress.h"

// What the tests of compression share: sequences at boundaries, with keys and values.

namespace tangram {

using ops::cuda::CompressParams;

constexpr int kChunk = 256, kWindow = 32, kSinks = 4;

// Sequences at boundaries 1, 2 and 3, of long chunks at 1 and 2. Rows keep what differs from row to
// row: the floor, everything, anything between.
inline DecodeLoad BoundaryLoad(const DecodeShape& shape, int chunk, uint64_t seed) {
  std::mt19937 random(seed);
  DecodeLoad load{{chunk, 2 * chunk}, {}, chunk};
  if (chunk < 4096) load.num_tokens.insert(load.num_tokens.end(), 2, 3 * chunk);
  std::vector<int32_t> row(shape.num_rows(), 0);
  for (int k = 0; k <= 3; ++k) {
    for (int i = 0; i < shape.num_rows(); ++i) {
      load.retained.push_back(row[i]);
      const int steps = i == 0   ? chunk / kPageTokens
                        : i == 1 ? 0
                                 : random() % (chunk / kPageTokens + 1);
      row[i] = std::max(48, row[i] + steps * kPageTokens);
    }
  }
  return load;
}

class CompressCase {
 public:
  struct Row {
    int old_length, new_length, first, candidates, keep;
    int last() const { return first + candidates; }
  };

  explicit CompressCase(const DecodeShape& shape, int chunk = kChunk, int sinks = kSinks)
      : sinks_(sinks),
        kv_(shape, BoundaryLoad(shape, chunk, 1), {}, ops::cuda::SplitMode::kEqualRanges, 132, true,
            2),
        scores_(kv_.num_virtual_pages() * kPageTokens) {
    std::vector<int32_t> boundary;
    for (int n : kv_.load().num_tokens) boundary.push_back(n / chunk);
    boundary_ = DeviceArray<int32_t>(boundary);
  }

  DecodeCase& kv() { return kv_; }
  const DecodeShape& shape() const { return kv_.shape(); }
  DeviceArray<float>& scores() { return scores_; }
  int boundary(int sequence) const { return kv_.load().num_tokens[sequence] / kv_.load().chunk; }
  int slot(int sequence) const { return kv_.size() - 1 - sequence; }

  CompressParams Params(int first_layer, int num_layers) const {
    const auto plan = kv_.plan_params();
    return {{kv_.size(), plan.batch.slot, boundary_.data(), plan.batch.table},
            plan.tables,
            kv_.attention_params(0).kv,
            scores_.data(),
            shape().kv_heads,
            first_layer,
            num_layers,
            kWindow,
            sinks_};
  }

  Row RowAt(int layer, int sequence, int head) const {
    const int row = (layer * shape().kv_heads + head) / shape().group_size;
    const auto& retained = kv_.load().retained;
    const int before = retained[(boundary(sequence) - 1) * shape().num_rows() + row];
    Row r;
    r.old_length = kv_.EntryTokens(layer, sequence, head);
    r.new_length = retained[boundary(sequence) * shape().num_rows() + row];
    r.first = std::max(sinks_, before - kWindow);
    r.candidates = r.old_length - kWindow - r.first;
    r.keep = r.new_length - kWindow - r.first;
    return r;
  }

  // Of the row of a head, out of all scores.
  std::vector<float> RowScores(const std::vector<float>& scores, int layer, int sequence,
                               int head) const {
    const auto pages = kv_.VirtualPages(layer, sequence, head);
    std::vector<float> row;
    for (int i = 0; i < kv_.EntryTokens(layer, sequence, head); ++i) {
      row.push_back(scores[ScoreIndex(pages, i)]);
    }
    return row;
  }

  template <class F>
  void ForEachRow(F visit) const {
    for (int layer = 0; layer < shape().layers; ++layer) {
      for (int t = 0; t < kv_.size(); ++t) {
        for (int head = 0; head < shape().kv_heads; ++head) visit(layer, t, head);
      }
    }
  }

 private:
  int sinks_;
  DecodeCase kv_;
  DeviceArray<float> scores_;
  DeviceArray<int32_t> boundary_;
};

}  // namespace tangram
