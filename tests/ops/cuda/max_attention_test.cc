#include "ops/cuda/max_attention.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "bench/cuda/decode_case.h"
#include "ops/cuda/numeric.h"

namespace tangram {
namespace {

using bench::DecodeCase;
using bench::DecodeLoad;
using bench::DecodeShape;
using ops::cuda::DeviceArray;

constexpr int kLayer = 1, kSequence = 1;

struct Variant {
  DecodeShape shape;
  int tokens, count;  // of the step; repeated
};

class MaxAttentionTest : public testing::TestWithParam<Variant> {
 protected:
  MaxAttentionTest()
      : case_(shape(), Load(), {}, ops::cuda::SplitMode::kEqualRanges, 132, true, 5),
        qkv_(ops::cuda::RandomBf16(size_t{1} * tokens() * Width(), 6, 0.7f)) {}

  const DecodeShape& shape() const { return GetParam().shape; }
  int tokens() const { return GetParam().tokens; }
  int Width() const { return (shape().q_heads + 2 * shape().kv_heads) * shape().head_dim; }

  // Rows of several lengths, the last of them the step's tokens, which stand behind a boundary.
  DecodeLoad Load() const {
    DecodeLoad load{{40, 512 + tokens()}, std::vector<int32_t>(shape().num_rows(), 0), 256};
    for (int k = 1; k <= (512 + tokens()) / 256; ++k) {
      for (int row = 0; row < shape().num_rows(); ++row) load.retained.push_back(192 + 16 * row);
    }
    return load;
  }
  int History(int head) const { return case_.EntryTokens(kLayer, kSequence, head) - tokens(); }

  std::vector<float> Run() {
    std::vector<int32_t> history;
    for (int row = 0; row < shape().num_rows(); ++row) {
      history.push_back(case_.RowTokens(kSequence, row) - tokens());
    }
    const DeviceArray<__nv_bfloat16> qkv(qkv_);
    const DeviceArray<int32_t> row_history(history);
    DeviceArray<float> out(size_t{1} * GetParam().count * shape().kv_heads);
    out.FillBytes(0xff);
    ops::cuda::CudaMaxAttentionParams params{qkv.data(),
                                             tokens(),
                                             shape().q_heads,
                                             shape().kv_heads,
                                             scale_,
                                             case_.attention_params(kLayer).kv,
                                             kLayer,
                                             case_.size() - 1 - kSequence,  // its slot
                                             row_history.data(),
                                             GetParam().count,
                                             out.data(),
                                             nullptr};
    DeviceArray<float> scratch(MaxAttentionScratchBytes(params) / sizeof(float));
    scratch.FillBytes(0xff);
    params.scratch = scratch.data();
    RunMaxAttention(params, nullptr);
    return out.Download();
  }

  // Of each of the `count` tokens, of one head.
  std::vector<double> Expected(int head) const {
    const int d = shape().head_dim, history = History(head), count = GetParam().count;
    const auto kv = case_.KeysValues(kLayer, kSequence, head);
    std::vector<double> largest(count, 0.0);
    for (int t = 0; t < tokens(); ++t) {
      for (int g = 0; g < shape().group(); ++g) {
        const __nv_bfloat16* query =
            &qkv_[size_t{1} * t * Width() + (head * shape().group() + g) * d];
        std::vector<double> weights(history + t + 1);
        double sum = 0;
        for (size_t k = 0; k < weights.size(); ++k) {
          double dot = 0;
          for (int i = 0; i < d; ++i) dot += double{__bfloat162float(query[i])} * kv[2 * k * d + i];
          sum += weights[k] = std::exp(dot * scale_);
        }
        for (int i = 0; i < count; ++i) {
          largest[i] = std::max(largest[i], weights[history - count + i] / sum);
        }
      }
    }
    return largest;
  }

  DecodeCase case_;
  std::vector<__nv_bfloat16> qkv_;
  float scale_ = 0.11f;
};

TEST_P(MaxAttentionTest, AgreesWithDouble) {
  const auto got = Run();
  for (int head = 0; head < shape().kv_heads; ++head) {
    const auto expected = Expected(head);
    for (int i = 0; i < GetParam().count; ++i) {
      ASSERT_NEAR(got[i * shape().kv_heads + head], expected[i], 1e-4 * expected[i])
          << "head " << head << " token " << i;
    }
  }
  const auto again = Run();
  EXPECT_EQ(0, std::memcmp(got.data(), again.data(), got.size() * sizeof(float)));
}

INSTANTIATE_TEST_SUITE_P(Shapes, MaxAttentionTest,
                         testing::Values(Variant{{2, 8, 2, 128, 2, DType::kBF16}, 70, 128},
                                         Variant{{2, 8, 2, 128, 1, DType::kF8E4M3}, 33, 61},
                                         Variant{{2, 7, 1, 64, 1, DType::kBF16}, 150, 192},
                                         Variant{{2, 4, 4, 256, 2, DType::kF8E4M3}, 1, 1}));

}  // namespace
}  // namespace tangram
