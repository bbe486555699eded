#include "ops/cuda/compress/score_queries.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>

#include "ops/cuda/compress_case.h"
#include "ops/cuda/expected_reference.h"
#include "ops/cuda/graph.h"
#include "ops/cuda/numeric.h"

namespace tangram {
namespace {

using ops::cuda::AttentionPool;
using ops::cuda::AttentionScoreParams;
using ops::cuda::ExpectedAttentionParams;
using ops::cuda::KeptQueries;

double Dot(const float* a, const float* b, int d) {
  double sum = 0;
  for (int i = 0; i < d; ++i) sum += double{a[i]} * b[i];
  return sum;
}

// Sequences at boundaries, with the queries of their chunks.
class ScoreQueriesTest : public testing::TestWithParam<DecodeShape> {
 protected:
  void KeepRandomQueries(int count, float offset) {
    count_ = count;
    const size_t size = size_t{4} * shape().layers * count * shape().q_heads * shape().head_dim;
    std::vector<__nv_bfloat16> values = ops::cuda::RandomBf16(size, 7);
    for (size_t i = 0; i < size; ++i) {  // means and spreads that differ between dimensions
      const int dim = static_cast<int>(i % shape().head_dim);
      values[i] = __float2bfloat16(__bfloat162float(values[i]) * (0.2f + dim % 5 * 0.5f) +
                                   offset * (dim % 7 - 3));
    }
    queries_.assign(values.begin(), values.end());
    device_queries_ = DeviceArray<__nv_bfloat16>(values);
  }
  KeptQueries Kept() const {
    return {device_queries_.data(), shape().layers, shape().q_heads, count_};
  }
  const DecodeShape& shape() const { return GetParam(); }
  int group() const { return shape().group(); }
  const float* Query(int layer, int sequence, int query, int q_head) const {
    const size_t row = ((size_t{1} * c_.slot(sequence) * shape().layers + layer) * count_ + query) *
                           shape().q_heads +
                       q_head;
    return &queries_[row * shape().head_dim];
  }
  std::vector<float> Keys(int layer, int sequence, int head, int part = 0) {
    const int d = shape().head_dim;
    const auto kv = c_.kv().KeysValues(layer, sequence, head);
    std::vector<float> keys;
    for (size_t t = part; t < kv.size() / d; t += 2) {
      keys.insert(keys.end(), &kv[t * d], &kv[t * d] + d);
    }
    return keys;
  }

  // Attention of each token of a row, summed over the kept queries and the heads of the group.
  std::vector<double> SummedAttention(int layer, int sequence, int head) {
    const int d = shape().head_dim;
    const auto keys = Keys(layer, sequence, head);
    const int length = static_cast<int>(keys.size()) / d;
    std::vector<double> sums(length, 0.0);
    for (int w = 0; w < count_; ++w) {
      for (int g = 0; g < group(); ++g) {
        const float* query = Query(layer, sequence, w, head * group() + g);
        const int seen = length - count_ + w + 1;
        std::vector<double> weights(seen);
        double maximum = -INFINITY, sum = 0;
        for (int t = 0; t < seen; ++t) {
          weights[t] = Dot(query, &keys[size_t{1} * t * d], d) / std::sqrt(d);
          maximum = std::max(maximum, weights[t]);
        }
        for (double& x : weights) sum += x = std::exp(x - maximum);
        for (int t = 0; t < seen; ++t) sums[t] += weights[t] / sum;
      }
    }
    return sums;
  }

  AttentionScoreParams Attention(AttentionPool pool, int kernel, bool mean_over_layer) {
    AttentionScoreParams p{c_.Params(0, shape().layers),
                           Kept(),
                           1 / std::sqrt(static_cast<float>(shape().head_dim)),
                           pool,
                           kernel,
                           mean_over_layer,
                           4 * kChunk,
                           nullptr};
    scratch_ = DeviceArray<char>(ops::cuda::AttentionScoreScratchBytes(p));
    scratch_.FillBytes(0xff);
    p.scratch = scratch_.data();
    return p;
  }

  // The scores of candidates must be those of `expected(layer, sequence, head)`, within `bound` of
  // each.
  template <class Run, class Expected>
  void ExpectScores(Run run, Expected expected, double bound) {
    c_.scores().FillBytes(0xff);
    run();
    const auto scores = c_.scores().Download();
    double worst = 0;
    c_.ForEachRow([&](int layer, int t, int head) {
      const CompressCase::Row row = c_.RowAt(layer, t, head);
      if (row.keep >= row.candidates) return;  // nothing to choose
      const auto got = c_.RowScores(scores, layer, t, head);
      const std::vector<double> want = expected(layer, t, head);
      for (int i = row.first; i < row.last(); ++i) {
        const double error = std::abs(got[i] - want[i]) / std::abs(want[i]);
        if (!(error <= worst)) worst = error;  // NaN too
        ASSERT_LE(error, bound) << "layer " << layer << " sequence " << t << " head " << head
                                << " token " << i << ": " << got[i] << ", wanted " << want[i];
      }
    });
    RecordProperty("worst_relative_error", std::to_string(worst));
    std::printf("    worst relative error %.1e\n", worst);
    // Again, out of a graph: the same bits.
    c_.scores().FillBytes(0xff);
    Graph([&](cudaStream_t stream) {
      stream_ = stream;
      run();
      stream_ = nullptr;
    }).Replay();
    const auto again = c_.scores().Download();
    EXPECT_EQ(0, std::memcmp(scores.data(), again.data(), scores.size() * sizeof(float)));
  }

  void CheckSnapKv(int count, AttentionPool pool, int kernel) {
    KeepRandomQueries(count, 0.1f);
    const AttentionScoreParams params = Attention(pool, kernel, false);
    ExpectScores([&] { ops::cuda::RunScoreAttention(params, stream_); },
                 [&](int layer, int t, int head) {
                   const CompressCase::Row row = c_.RowAt(layer, t, head);
                   const auto sums = SummedAttention(layer, t, head);
                   std::vector<double> scores(sums.size());
                   for (int i = row.first; i < row.last(); ++i) {
                     double best = 0, sum = 0;
                     for (int j = i - kernel / 2; j <= i + kernel / 2; ++j) {
                       if (j < 0 || j >= row.old_length) continue;
                       best = std::max(best, sums[j]);
                       if (j < row.last()) sum += sums[j];
                     }
                     scores[i] =
                         (pool == AttentionPool::kMax ? best : sum / kernel) / (count_ * group());
                   }
                   return scores;
                 },
                 1e-4);
  }

  CompressCase c_{GetParam()};
  int count_ = 0;
  std::vector<float> queries_;
  DeviceArray<__nv_bfloat16> device_queries_;
  DeviceArray<char> scratch_;
  cudaStream_t stream_ = nullptr;
};

TEST_P(ScoreQueriesTest, SnapKvLargestOfNeighbours) {
  CheckSnapKv(kWindow, AttentionPool::kMax, 7);
}
TEST_P(ScoreQueriesTest, SnapKvMeanOfNeighbours) { CheckSnapKv(kWindow, AttentionPool::kMean, 5); }
// Queries that some candidates come behind.
TEST_P(ScoreQueriesTest, SnapKvWiderThanTheWindow) { CheckSnapKv(50, AttentionPool::kMax, 3); }

TEST_P(ScoreQueriesTest, Tova) {
  KeepRandomQueries(1, 0.1f);
  const AttentionScoreParams params = Attention(AttentionPool::kNone, 1, true);
  ExpectScores([&] { ops::cuda::RunScoreAttention(params, stream_); },
               [&](int layer, int t, int head) {
                 const CompressCase::Row row = c_.RowAt(layer, t, head);
                 std::vector<double> scores(row.old_length, 0.0);
                 for (int h = 0; h < shape().kv_heads; ++h) {
                   const auto sums = SummedAttention(layer, t, h);
                   const int shift = static_cast<int>(sums.size()) - row.old_length;
                   for (int i = row.first; i < row.last(); ++i) scores[i] += sums[i + shift];
                 }
                 for (double& x : scores) x /= shape().q_heads;
                 return scores;
               },
               1e-4);
}

// A sequence's scores do not depend on what stands beside it, to the bit.
TEST_P(ScoreQueriesTest, SnapKvAloneOrBesideOthers) {
  KeepRandomQueries(kWindow, 0.1f);
  AttentionScoreParams params = Attention(AttentionPool::kMax, 7, false);
  c_.scores().FillBytes(0xff);
  ops::cuda::RunScoreAttention(params, nullptr);
  const auto together = c_.scores().Download();
  c_.scores().FillBytes(0xff);
  params.rows.batch.size = 1;
  for (int t = 0; t < c_.kv().size();
       ++t, ++params.rows.batch.slot, ++params.rows.batch.boundary, ++params.rows.batch.table) {
    ops::cuda::RunScoreAttention(params, nullptr);
  }
  const auto alone = c_.scores().Download();
  EXPECT_EQ(0, std::memcmp(together.data(), alone.data(), together.size() * sizeof(float)));
}

TEST_P(ScoreQueriesTest, ExpectedAttention) {
  const int d = shape().head_dim;
  KeepRandomQueries(kChunk, 0.2f);
  for (const bool variant : {false, true}) {
    const ExpectedReference reference{d, RotationFrequencies(d), variant, !variant,
                                      variant ? 64 : 512};
    const DeviceArray<float> inv_freq(reference.inv_freq);
    ExpectedAttentionParams params{
        c_.Params(0, shape().layers), Kept(), inv_freq.data(),  1.0f,  reference.interleaved,
        reference.covariance,         true,   reference.future, 0.01f, nullptr};
    DeviceArray<char> scratch(ops::cuda::ExpectedAttentionScratchBytes(params));
    scratch.FillBytes(0xff);
    params.scratch = scratch.data();
    ExpectScores([&] { ops::cuda::RunScoreExpectedAttention(params, stream_); },
                 [&](int layer, int t, int head) {
                   const CompressCase::Row row = c_.RowAt(layer, t, head);
                   const int skip = c_.boundary(t) == 1 ? kSinks : 0;
                   const auto keys = Keys(layer, t, head), values = Keys(layer, t, head, 1);
                   std::vector<const float*> read;
                   for (int i = row.first; i < row.old_length; ++i)
                     read.push_back(&keys[size_t{1} * i * d]);
                   const auto rotated = reference.MeanRotated(read, c_.boundary(t) * kChunk);
                   std::vector<double> scores(row.old_length, 0.0);
                   for (int g = 0; g < group(); ++g) {
                     std::vector<const float*> queries;
                     for (int w = skip; w < kChunk; ++w) {
                       queries.push_back(Query(layer, t, w, head * group() + g));
                     }
                     const int begin = (c_.boundary(t) - 1) * kChunk + skip;
                     auto logits = reference.Logits(reference.Unrotated(queries, begin), rotated);
                     const double maximum = *std::max_element(logits.begin(), logits.end());
                     double sum = 0;
                     for (double& x : logits) sum += x = std::exp(x - maximum);
                     for (size_t i = 0; i < logits.size(); ++i) {
                       scores[row.first + i] += logits[i] / sum / group();
                     }
                   }
                   for (int i = row.first; i < row.last(); ++i) {
                     const float* value = &values[size_t{1} * i * d];
                     scores[i] = (scores[i] + 0.01) * std::sqrt(Dot(value, value, d));
                   }
                   return scores;
                 },
                 1e-3);
  }
}

TEST_P(ScoreQueriesTest, KeepsTheLastQueriesOfAChunkHoweverItCame) {
  ASSERT_GE(shape().layers, 2);
  const int count = 40, tokens = 2 * kChunk, width = shape().q_heads * shape().head_dim;
  const int row = width + 2 * shape().kv_heads * shape().head_dim;
  const auto host = ops::cuda::RandomBf16(size_t{1} * tokens * row, 5);
  const DeviceArray<__nv_bfloat16> qkv(host);
  std::vector<int32_t> position(tokens), slot(tokens, 1);
  for (int t = 0; t < tokens; ++t) position[t] = t;
  position[tokens - 3] = -1;
  const DeviceArray<int32_t> positions(position), slots(slot);
  DeviceArray<__nv_bfloat16> kept(size_t{2} * shape().layers * count * width);
  kept.FillBytes(0xff);
  for (int first = 0; first < tokens;) {
    const int slice = std::min(tokens - first, first % 3 == 0 ? 100 : 37);
    ops::cuda::RunKeepQueries({qkv.data() + size_t{1} * first * row,
                               slice,
                               shape().kv_heads,
                               shape().head_dim,
                               positions.data() + first,
                               slots.data() + first,
                               kChunk,
                               1,
                               {kept.data(), shape().layers, shape().q_heads, count}},
                              nullptr);
    first += slice;
  }
  const auto got = kept.Download();
  const size_t begin = (size_t{1} * shape().layers + 1) * count * width;  // slot 1, layer 1
  for (int w = 0; w < count; ++w) {
    // The second chunk's, but for the unused token, whose place still has the first chunk's.
    const int token = (w == count - 3 ? kChunk : tokens) - count + w;
    ASSERT_EQ(0, std::memcmp(&got[begin + size_t{1} * w * width], &host[size_t{1} * token * row],
                             sizeof(__nv_bfloat16) * width))
        << w;
  }
  const __nv_bfloat16* other = &got[begin - size_t{1} * count * width];
  for (int i = 0; i < count * width; ++i) ASSERT_TRUE(std::isnan(__bfloat162float(other[i])));
}

INSTANTIATE_TEST_SUITE_P(Shapes, ScoreQueriesTest,
                         testing::Values(DecodeShape{3, 8, 2, 128, 2, DType::kBF16},
                                         DecodeShape{3, 8, 2, 128, 2, DType::kF8E4M3},
                                         DecodeShape{2, 16, 2, 64, 1, DType::kBF16},
                                         DecodeShape{3, 7, 1, 64, 1, DType::kF8E4M3}));

}  // namespace
}  // namespace tangram
