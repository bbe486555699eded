#include "ops/cuda/compress.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <random>

#include "bench/cuda/decode_case.h"

namespace tangram {
namespace {

using bench::DecodeCase;
using bench::DecodeLoad;
using bench::DecodeShape;
using ops::cuda::CompressParams;
using ops::cuda::DeviceArray;
using ops::cuda::kPageTokens;

constexpr int kChunk = 256, kWindow = 32, kSinks = 4;

// Sequences at boundaries 1, 2 and 3. Rows keep what differs from row to row: the floor,
// everything, anything between.
DecodeLoad BoundaryLoad(const DecodeShape& shape, uint64_t seed) {
  std::mt19937 random(seed);
  DecodeLoad load{{kChunk, 2 * kChunk, 3 * kChunk, 3 * kChunk}, {}, kChunk};
  std::vector<int32_t> row(shape.num_rows(), 0);
  for (int k = 0; k <= 3; ++k) {
    for (int i = 0; i < shape.num_rows(); ++i) {
      load.retained.push_back(row[i]);
      const int steps = i == 0   ? kChunk / kPageTokens
                        : i == 1 ? 0
                                 : random() % (kChunk / kPageTokens + 1);
      row[i] = std::max(48, row[i] + steps * kPageTokens);
    }
  }
  return load;
}

struct Row {
  int old_length, new_length, first, candidates, keep;
};
Row RowAt(const DecodeCase& c, int layer, int sequence, int head) {
  Row r;
  r.old_length = c.EntryTokens(layer, sequence, head);
  const int place_row = (layer * c.shape().kv_heads + head) / c.shape().group_size;
  const int boundary = c.load().num_tokens[sequence] / kChunk;
  const int before = c.load().retained[(boundary - 1) * c.shape().num_rows() + place_row];
  r.new_length = c.load().retained[boundary * c.shape().num_rows() + place_row];
  r.first = std::max(kSinks, before - kWindow);
  r.candidates = r.old_length - kWindow - r.first;
  r.keep = r.new_length - kWindow - r.first;
  return r;
}

class CompressTest : public testing::TestWithParam<DecodeShape> {
 protected:
  CompressTest()
      : case_(GetParam(), BoundaryLoad(GetParam(), 1), {}, ops::cuda::SplitMode::kEqualRanges, 132,
              true, 2),
        scores_(case_.num_virtual_pages() * kPageTokens),
        boundary_([&] {
          std::vector<int32_t> boundary;
          for (int n : case_.load().num_tokens) boundary.push_back(n / kChunk);
          return boundary;
        }()) {}

  CompressParams Params(int first_layer, int num_layers) const {
    const auto plan = case_.plan_params();
    return {{case_.size(), plan.batch.slot, boundary_.data(), plan.batch.table},
            plan.tables,
            case_.attention_params(0).kv,
            scores_.data(),
            GetParam().kv_heads,
            first_layer,
            num_layers,
            kWindow,
            kSinks};
  }
  std::vector<float> RowScores(const std::vector<float>& scores, int layer, int sequence,
                               int head) const {
    const auto pages = case_.VirtualPages(layer, sequence, head);
    std::vector<float> row;
    for (int i = 0; i < case_.EntryTokens(layer, sequence, head); ++i) {
      row.push_back(scores[pages[i / kPageTokens] * kPageTokens + i % kPageTokens]);
    }
    return row;
  }

  void ExpectCompacted(const std::vector<float>& scores) {
    scores_.Upload(scores);
    std::vector<std::vector<float>> before;
    ForEachRow(
        [&](int layer, int t, int head) { before.push_back(case_.KeysValues(layer, t, head)); });
    ops::cuda::RunSelectAndCompact(Params(0, GetParam().layers), nullptr);
    const auto scores_after = scores_.Download();
    const size_t token = 2 * GetParam().head_dim;
    size_t index = 0;
    ForEachRow([&](int layer, int t, int head) {
      const Row row = RowAt(case_, layer, t, head);
      const auto old_scores = RowScores(scores, layer, t, head);
      const auto new_scores = RowScores(scores_after, layer, t, head);
      const auto kept = Kept(row, old_scores);
      ASSERT_EQ(static_cast<int>(kept.size()), row.new_length);
      const auto& old_kv = before[index++];
      const auto new_kv = case_.KeysValues(layer, t, head);
      for (int i = 0; i < row.new_length; ++i) {
        ASSERT_EQ(0,
                  std::memcmp(&new_kv[i * token], &old_kv[kept[i] * token], token * sizeof(float)))
            << "layer " << layer << " sequence " << t << " head " << head << " token " << i;
        ASSERT_EQ(0, std::memcmp(&new_scores[i], &old_scores[kept[i]], sizeof(float)));
      }
    });
  }

  // Indices kept, ascending: best scores first, of equal ones the later.
  static std::vector<int> Kept(const Row& row, const std::vector<float>& scores) {
    std::vector<int> order(row.candidates);
    std::iota(order.begin(), order.end(), row.first);
    auto value = [&](int i) {
      return std::isnan(scores[i]) ? -std::numeric_limits<double>::infinity() - 1
                                   : double{scores[i]};
    };
    auto rank = [&](int i) { return std::pair(!std::isnan(scores[i]), value(i)); };
    std::sort(order.begin(), order.end(),
              [&](int a, int b) { return rank(a) != rank(b) ? rank(a) > rank(b) : a > b; });
    order.resize(row.keep);
    for (int i = 0; i < row.first; ++i) order.push_back(i);
    for (int i = row.old_length - kWindow; i < row.old_length; ++i) order.push_back(i);
    std::sort(order.begin(), order.end());
    return order;
  }

  template <class F>
  void ForEachRow(F visit) const {
    for (int layer = 0; layer < GetParam().layers; ++layer) {
      for (int t = 0; t < case_.size(); ++t) {
        for (int head = 0; head < GetParam().kv_heads; ++head) visit(layer, t, head);
      }
    }
  }

  DecodeCase case_;
  DeviceArray<float> scores_;
  DeviceArray<int32_t> boundary_;
};

TEST_P(CompressTest, RandomScores) {
  std::mt19937 random(3);
  std::normal_distribution<float> normal;
  std::vector<float> scores(scores_.size());
  for (float& score : scores) score = normal(random);
  ExpectCompacted(scores);
}

TEST_P(CompressTest, TiesInfinitiesAndNan) {
  std::mt19937 random(4);
  const float inf = std::numeric_limits<float>::infinity();
  const float values[] = {-1, 0, 0, 1, 2, -inf, inf, std::numeric_limits<float>::quiet_NaN()};
  std::vector<float> scores(scores_.size());
  for (float& score : scores) score = values[random() % 8];
  ExpectCompacted(scores);
}

TEST_P(CompressTest, AllEqual) { ExpectCompacted(std::vector<float>(scores_.size(), -0.5f)); }

// Every kept token comes from as far back, or as far ahead, as it can.
TEST_P(CompressTest, WorstOrders) {
  for (float sign : {1.0f, -1.0f}) {
    std::vector<float> scores(scores_.size(), 0);
    ForEachRow([&](int layer, int t, int head) {
      const auto pages = case_.VirtualPages(layer, t, head);
      for (int i = 0; i < case_.EntryTokens(layer, t, head); ++i) {
        scores[pages[i / kPageTokens] * kPageTokens + i % kPageTokens] = sign * i;
      }
    });
    ExpectCompacted(scores);
  }
}

TEST_P(CompressTest, OneLayerLeavesTheOthers) {
  scores_.Upload(std::vector<float>(scores_.size(), 1.0f));
  const auto before = case_.KeysValues(0, 1, 1);
  const auto other = case_.KeysValues(1, 1, 1);
  ops::cuda::RunSelectAndCompact(Params(1, 1), nullptr);
  const auto after = case_.KeysValues(0, 1, 1);
  EXPECT_EQ(0, std::memcmp(before.data(), after.data(), before.size() * sizeof(float)));
  const Row row = RowAt(case_, 1, 1, 1);
  if (row.keep < row.candidates) {
    const auto moved = case_.KeysValues(1, 1, 1);
    EXPECT_NE(0, std::memcmp(other.data(), moved.data(), other.size() * sizeof(float)));
  }
}

TEST_P(CompressTest, KeyDiffScores) {
  scores_.FillBytes(0xff);
  ops::cuda::RunScoreKeyDiff(Params(0, GetParam().layers), nullptr);
  const auto scores = scores_.Download();
  const int d = GetParam().head_dim;
  ForEachRow([&](int layer, int t, int head) {
    const Row row = RowAt(case_, layer, t, head);
    if (row.keep >= row.candidates) return;  // nothing to choose, nothing scored
    const auto kv = case_.KeysValues(layer, t, head);
    const auto row_scores = RowScores(scores, layer, t, head);
    auto norm = [&](const auto& x) {
      double squares = 0;
      for (int i = 0; i < d; ++i) squares += double{x[i]} * x[i];
      return std::sqrt(squares);
    };
    std::vector<double> mean(d, 0.0);
    for (int i = row.first; i < row.old_length; ++i) {
      const float* key = &kv[size_t{2} * i * d];
      for (int k = 0; k < d; ++k) mean[k] += key[k] / norm(key);
    }
    for (int i = row.first; i < row.first + row.candidates; ++i) {
      const float* key = &kv[size_t{2} * i * d];
      double dot = 0;
      for (int k = 0; k < d; ++k) dot += key[k] * mean[k];
      ASSERT_NEAR(row_scores[i], -dot / (norm(key) * norm(mean)), 2e-6);
    }
  });
}

TEST_P(CompressTest, StreamingLlmKeepsTheMostRecent) {
  scores_.FillBytes(0xff);
  ops::cuda::RunScoreStreamingLlm(Params(0, GetParam().layers), nullptr);
  const auto scores = scores_.Download();
  ForEachRow([&](int layer, int t, int head) {
    const Row row = RowAt(case_, layer, t, head);
    const auto row_scores = RowScores(scores, layer, t, head);
    for (int i = row.first; i < row.first + row.candidates; ++i) ASSERT_EQ(row_scores[i], i);
  });
}

INSTANTIATE_TEST_SUITE_P(Shapes, CompressTest,
                         testing::Values(DecodeShape{2, 8, 8, 128, 4, DType::kBF16},
                                         DecodeShape{2, 8, 8, 128, 2, DType::kF8E4M3},
                                         DecodeShape{2, 4, 4, 64, 4, DType::kBF16},
                                         DecodeShape{2, 4, 4, 64, 1, DType::kF8E4M3}));

}  // namespace
}  // namespace tangram
