#include "ops/cuda/compress/compress.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <random>

#include "ops/cuda/compress_case.h"

namespace tangram {
namespace {

struct Variant {
  DecodeShape shape;
  int chunk;
  bool apart = false;  // each layer of each sequence in a launch of its own, of few rows
  int sinks = kSinks;
};

class CompressTest : public testing::TestWithParam<Variant> {
 protected:
  static const DecodeShape& shape() { return GetParam().shape; }

  void ExpectCompacted(const std::vector<float>& scores) {
    c_.scores().Upload(scores);
    std::vector<std::vector<float>> before;
    c_.ForEachRow(
        [&](int layer, int t, int head) { before.push_back(c_.kv().KeysValues(layer, t, head)); });
    GetParam().apart ? CompactApart()
                     : ops::cuda::RunSelectAndCompact(c_.Params(0, shape().layers), nullptr);
    const auto scores_after = c_.scores().Download();
    const size_t token = 2 * shape().head_dim;
    size_t index = 0;
    c_.ForEachRow([&](int layer, int t, int head) {
      const CompressCase::Row row = c_.RowAt(layer, t, head);
      const auto old_scores = c_.RowScores(scores, layer, t, head);
      const auto new_scores = c_.RowScores(scores_after, layer, t, head);
      const auto kept = Kept(row, old_scores);
      ASSERT_EQ(static_cast<int>(kept.size()), row.new_length);
      const auto& old_kv = before[index++];
      const auto new_kv = c_.kv().KeysValues(layer, t, head);
      for (int i = 0; i < row.new_length; ++i) {
        ASSERT_EQ(0,
                  std::memcmp(&new_kv[i * token], &old_kv[kept[i] * token], token * sizeof(float)))
            << "layer " << layer << " sequence " << t << " head " << head << " token " << i;
        ASSERT_EQ(0, std::memcmp(&new_scores[i], &old_scores[kept[i]], sizeof(float)));
      }
    });
  }

  void CompactApart() {
    for (int layer = 0; layer < shape().layers; ++layer) {
      CompressParams params = c_.Params(layer, 1);
      params.batch.size = 1;
      for (int t = 0; t < c_.kv().size(); ++t) {
        ops::cuda::RunSelectAndCompact(params, nullptr);
        ++params.batch.slot, ++params.batch.boundary, ++params.batch.table;
      }
    }
  }

  // Indices kept, ascending: best scores first, of equal ones the later.
  static std::vector<int> Kept(const CompressCase::Row& row, const std::vector<float>& scores) {
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

  CompressCase c_{shape(), GetParam().chunk, GetParam().sinks};
};

TEST_P(CompressTest, RandomScores) {
  std::mt19937 random(3);
  std::normal_distribution<float> normal;
  std::vector<float> scores(c_.scores().size());
  for (float& score : scores) score = normal(random);
  ExpectCompacted(scores);
}

TEST_P(CompressTest, TiesInfinitiesAndNan) {
  std::mt19937 random(4);
  const float inf = std::numeric_limits<float>::infinity();
  const float values[] = {-1, 0, 0, 1, 2, -inf, inf, std::numeric_limits<float>::quiet_NaN()};
  std::vector<float> scores(c_.scores().size());
  for (float& score : scores) score = values[random() % 8];
  ExpectCompacted(scores);
}

TEST_P(CompressTest, AllEqual) { ExpectCompacted(std::vector<float>(c_.scores().size(), -0.5f)); }

// Every kept token comes from as far back, or as far ahead, as it can.
TEST_P(CompressTest, WorstOrders) {
  for (float sign : {1.0f, -1.0f}) {
    std::vector<float> scores(c_.scores().size(), 0);
    c_.ForEachRow([&](int layer, int t, int head) {
      const auto pages = c_.kv().VirtualPages(layer, t, head);
      for (int i = 0; i < c_.kv().EntryTokens(layer, t, head); ++i) {
        scores[ScoreIndex(pages, i)] = sign * i;
      }
    });
    ExpectCompacted(scores);
  }
}

TEST_P(CompressTest, OneLayerLeavesTheOthers) {
  c_.scores().Upload(std::vector<float>(c_.scores().size(), 1.0f));
  const auto before = c_.kv().KeysValues(0, 1, 1);
  const auto other = c_.kv().KeysValues(1, 1, 1);
  ops::cuda::RunSelectAndCompact(c_.Params(1, 1), nullptr);
  const auto after = c_.kv().KeysValues(0, 1, 1);
  EXPECT_EQ(0, std::memcmp(before.data(), after.data(), before.size() * sizeof(float)));
  const CompressCase::Row row = c_.RowAt(1, 1, 1);
  if (row.keep < row.candidates) {
    const auto moved = c_.kv().KeysValues(1, 1, 1);
    EXPECT_NE(0, std::memcmp(other.data(), moved.data(), other.size() * sizeof(float)));
  }
}

TEST_P(CompressTest, KeyDiffScores) {
  c_.scores().FillBytes(0xff);
  ops::cuda::RunScoreKeyDiff(c_.Params(0, shape().layers), nullptr);
  const auto scores = c_.scores().Download();
  const int d = shape().head_dim;
  c_.ForEachRow([&](int layer, int t, int head) {
    const CompressCase::Row row = c_.RowAt(layer, t, head);
    if (row.keep >= row.candidates) return;  // nothing to choose, nothing scored
    const auto kv = c_.kv().KeysValues(layer, t, head);
    const auto row_scores = c_.RowScores(scores, layer, t, head);
    auto norm = [&](const auto& x) {
      double squares = 0;
      for (int i = 0; i < d; ++i) squares += double{x[i]} * x[i];
      return std::sqrt(squares);
    };
    std::vector<double> mean(d, 0.0);
    for (int i = 0; i < row.old_length; ++i) {
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
  c_.scores().FillBytes(0xff);
  ops::cuda::RunScoreStreamingLlm(c_.Params(0, shape().layers), nullptr);
  const auto scores = c_.scores().Download();
  c_.ForEachRow([&](int layer, int t, int head) {
    const CompressCase::Row row = c_.RowAt(layer, t, head);
    const auto row_scores = c_.RowScores(scores, layer, t, head);
    for (int i = row.first; i < row.first + row.candidates; ++i) ASSERT_EQ(row_scores[i], i);
  });
}

// The threshold of few candidates is found bit by bit, of many by bins. With three sinks the number
// of candidates at the first boundary is odd.
INSTANTIATE_TEST_SUITE_P(Shapes, CompressTest,
                         testing::Values(Variant{{2, 8, 8, 128, 4, DType::kBF16}, 256},
                                         Variant{{2, 8, 8, 128, 2, DType::kF8E4M3}, 640},
                                         Variant{{2, 4, 4, 64, 4, DType::kBF16}, 640},
                                         Variant{{2, 4, 4, 64, 1, DType::kF8E4M3}, 256},
                                         Variant{{2, 8, 8, 128, 4, DType::kBF16}, 640, true},
                                         Variant{{2, 8, 8, 128, 2, DType::kF8E4M3}, 512, true},
                                         Variant{{2, 4, 4, 64, 4, DType::kBF16}, 256, true},
                                         Variant{{2, 4, 4, 64, 1, DType::kF8E4M3}, 640, true},
                                         Variant{{2, 4, 4, 64, 1, DType::kBF16}, 256, false, 3},
                                         Variant{{2, 4, 4, 64, 1, DType::kBF16}, 640, true, 3},
                                         Variant{{2, 2, 2, 64, 1, DType::kF8E4M3}, 8192}));

// The last tokens win, so that selection has looked at all of them.
TEST(CompressLimit, TheLargestChunkRuns) {
  const int chunk = ops::cuda::MaxCompressChunk(kWindow);
  ASSERT_GE(chunk, 14000);  // on a GPU with 100 KiB for a block
  CompressCase c({1, 3, 3, 64, 1, DType::kF8E4M3}, chunk);
  std::vector<float> scores(c.scores().size(), 0);
  const auto pages = c.kv().VirtualPages(0, 0, 2);
  for (int i = 0; i < chunk; ++i) scores[ScoreIndex(pages, i)] = static_cast<float>(i);
  c.scores().Upload(scores);
  ops::cuda::RunSelectAndCompact(c.Params(0, 1), nullptr);
  const auto kept = c.RowScores(c.scores().Download(), 0, 0, 2);
  const CompressCase::Row row = c.RowAt(0, 0, 2);
  ASSERT_LT(row.keep, row.candidates);
  for (int i = row.first; i < row.new_length; ++i) {
    ASSERT_EQ(kept[i], static_cast<float>(chunk - row.new_length + i)) << i;
  }
}

}  // namespace
}  // namespace tangram
