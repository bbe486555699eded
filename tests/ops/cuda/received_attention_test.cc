#include "ops/cuda/compress/received_attention.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "ops/cuda/case_support.h"
#include "ops/cuda/numeric.h"

namespace tangram {
namespace {

using ops::cuda::CudaStepQueries;

constexpr int kLayer = 1, kSequence = 1;
constexpr int kChunk = 512;
constexpr float kScale = 0.11f;

// A step of one sequence: the last `tokens` of its rows, behind `chunks` chunks that left each row
// a number of tokens of its own.
class Step {
 public:
  Step(const DecodeShape& shape, int tokens, int chunks)
      : shape_(shape),
        tokens_(tokens),
        case_(shape, Load(chunks), {}, ops::cuda::SplitMode::kEqualRanges, 132, true, 5),
        qkv_(ops::cuda::RandomBf16(size_t{1} * tokens * shape_.qkv_width(), 6, 0.7f)) {}

  int kv_heads() const { return shape_.kv_heads; }
  int tokens() const { return tokens_; }
  int History(int head) const { return case_.EntryTokens(kLayer, kSequence, head) - tokens_; }
  int MaxHistory() const {
    int most = 0;
    for (int head = 0; head < kv_heads(); ++head) most = std::max(most, History(head));
    return most;
  }

  // Calls run(step) with the step in device memory, scratch poisoned.
  template <class Run>
  void OnDevice(const Run& run) const {
    std::vector<int32_t> history;
    for (int row = 0; row < shape_.num_rows(); ++row) {
      history.push_back(case_.RowTokens(kSequence, row) - tokens_);
    }
    const DeviceArray<__nv_bfloat16> qkv(qkv_);
    const DeviceArray<int32_t> row_history(history);
    CudaStepQueries step{qkv.data(),
                         tokens_,
                         shape_.q_heads,
                         shape_.kv_heads,
                         kScale,
                         case_.attention_params(kLayer).kv,
                         kLayer,
                         case_.size() - 1 - kSequence,  // its slot
                         row_history.data(),
                         nullptr};
    DeviceArray<float> scratch(StepQueriesScratchBytes(step) / sizeof(float));
    scratch.FillBytes(0xff);
    step.scratch = scratch.data();
    run(step);
    TANGRAM_CUDA_CHECK(cudaDeviceSynchronize());
  }

  // Calls visit(token, key, weight) for each query of a head's group and each key it sees, in
  // float64.
  template <class Visit>
  void ForWeights(int head, const Visit& visit) const {
    const int d = shape_.head_dim, history = History(head);
    const auto kv = case_.KeysValues(kLayer, kSequence, head);
    for (int q = 0; q < tokens_ * shape_.group(); ++q) {
      const int t = q / shape_.group();
      const __nv_bfloat16* query = &qkv_[size_t{1} * t * shape_.qkv_width() +
                                         (head * shape_.group() + q % shape_.group()) * d];
      std::vector<double> weights(history + t + 1);
      double sum = 0;
      for (size_t k = 0; k < weights.size(); ++k) {
        double dot = 0;
        for (int i = 0; i < d; ++i) dot += double{__bfloat162float(query[i])} * kv[2 * k * d + i];
        sum += weights[k] = std::exp(dot * kScale);
      }
      for (size_t k = 0; k < weights.size(); ++k) visit(t, static_cast<int>(k), weights[k] / sum);
    }
  }

 private:
  DecodeLoad Load(int chunks) const {
    DecodeLoad load{{40, chunks * kChunk + tokens_}, {}, kChunk};
    for (int k = 0; k <= chunks; ++k) {
      for (int row = 0; row < shape_.num_rows(); ++row) {
        load.retained.push_back(k == 0 ? 0 : 192 + 16 * row);
      }
    }
    return load;
  }

  DecodeShape shape_;
  int tokens_;
  DecodeCase case_;
  std::vector<__nv_bfloat16> qkv_;
};

struct MaxVariant {
  DecodeShape shape;
  int tokens, count;  // of the step; repeated
};

class MaxAttentionTest : public testing::TestWithParam<MaxVariant> {
 protected:
  std::vector<float> Run() const {
    DeviceArray<float> out(size_t{1} * GetParam().count * step_.kv_heads());
    out.FillBytes(0xff);
    step_.OnDevice([&](const CudaStepQueries& step) {
      ops::cuda::RunMaxAttention({step, GetParam().count, out.data()}, nullptr);
    });
    return out.Download();
  }

  const Step step_{GetParam().shape, GetParam().tokens, 1};
};

TEST_P(MaxAttentionTest, AgreesWithDouble) {
  const auto got = Run();
  const int count = GetParam().count;
  for (int head = 0; head < step_.kv_heads(); ++head) {
    std::vector<double> largest(count, 0.0);
    const int first = step_.History(head) - count;
    step_.ForWeights(head, [&](int, int key, double weight) {
      if (key < first || key >= first + count) return;
      largest[key - first] = std::max(largest[key - first], weight);
    });
    for (int i = 0; i < count; ++i) {
      ASSERT_NEAR(got[i * step_.kv_heads() + head], largest[i], 1e-4 * largest[i])
          << "head " << head << " token " << i;
    }
  }
  const auto again = Run();
  EXPECT_EQ(0, std::memcmp(got.data(), again.data(), got.size() * sizeof(float)));
}

INSTANTIATE_TEST_SUITE_P(Shapes, MaxAttentionTest,
                         testing::Values(MaxVariant{{2, 8, 2, 128, 2, DType::kBF16}, 70, 128},
                                         MaxVariant{{2, 8, 2, 128, 1, DType::kF8E4M3}, 33, 61},
                                         MaxVariant{{2, 7, 1, 64, 1, DType::kBF16}, 150, 192},
                                         MaxVariant{{2, 4, 4, 64, 2, DType::kF8E4M3}, 1, 1}));

struct SumVariant {
  DecodeShape shape;
  int tokens, chunks;  // of the step; before it
};

// Sums stand on what was there before, and nothing behind a row's end is touched.
class SumAttentionTest : public testing::TestWithParam<SumVariant> {
 protected:
  static constexpr int kGuardTokens = 70;
  static float Before(size_t i) { return 0.25f * static_cast<float>(i % 5); }

  std::vector<float> Run(int window) const {
    std::vector<float> before((step_.MaxHistory() + step_.tokens() + kGuardTokens) * size_t{1} *
                              step_.kv_heads());
    for (size_t i = 0; i < before.size(); ++i) before[i] = Before(i);
    const DeviceArray<float> out(before);
    step_.OnDevice([&](const CudaStepQueries& step) {
      ops::cuda::RunSumAttention({step, window, step_.MaxHistory(), out.data()}, nullptr);
    });
    return out.Download();
  }

  // What each key of the head gets; a key that gets nothing has exactly 0.
  std::vector<double> Expected(int head, int window) const {
    std::vector<double> sums(step_.History(head) + step_.tokens(), 0.0);
    step_.ForWeights(head, [&](int token, int key, double weight) {
      if (key + window <= step_.History(head) + token) sums[key] += weight;
    });
    return sums;
  }

  const Step step_{GetParam().shape, GetParam().tokens, GetParam().chunks};
};

TEST_P(SumAttentionTest, AgreesWithDouble) {
  // No window, ends of tiles of keys, the step, and more than some or all rows have.
  for (const int window : {0, 1, 63, 64, 65, step_.tokens(), step_.MaxHistory(), 4096}) {
    const auto got = Run(window);
    for (int head = 0; head < step_.kv_heads(); ++head) {
      auto sums = Expected(head, window);
      sums.resize(got.size() / step_.kv_heads(), 0.0);
      for (size_t key = 0; key < sums.size(); ++key) {
        const size_t i = key * step_.kv_heads() + head;
        const double expected = sums[key] + Before(i);
        const double rounding = sums[key] > 0 ? 1e-4 * sums[key] + 1e-7 * expected : 0;
        ASSERT_NEAR(got[i], expected, rounding)
            << "window " << window << " head " << head << " key " << key;
      }
    }
    const auto again = Run(window);
    ASSERT_EQ(0, std::memcmp(got.data(), again.data(), got.size() * sizeof(float)));
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, SumAttentionTest,
                         testing::Values(SumVariant{{2, 8, 2, 128, 2, DType::kBF16}, 300, 1},
                                         SumVariant{{2, 8, 4, 128, 1, DType::kF8E4M3}, 33, 1},
                                         SumVariant{{2, 9, 3, 64, 3, DType::kBF16}, 130, 0},
                                         SumVariant{{2, 7, 1, 64, 1, DType::kF8E4M3}, 64, 0},
                                         SumVariant{{2, 4, 4, 64, 2, DType::kF8E4M3}, 1, 1},
                                         SumVariant{{2, 2, 2, 128, 1, DType::kBF16}, 1, 0}));

}  // namespace
}  // namespace tangram
