#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <random>

#include "ops/cuda/case_support.h"

namespace tangram {
namespace {

using ops::cuda::SplitMode;

float RoundBf16(float x) { return static_cast<float>(static_cast<__nv_bfloat16>(x)); }

// Attention of one query over `kv` [tokens][K, V][d] in float64; `rounded`: as a bf16
// implementation would round, weights and result to bf16 and the rest in f32.
std::vector<double> Attend(const float* q, const std::vector<float>& kv, int d, bool rounded) {
  const int tokens = static_cast<int>(kv.size()) / (2 * d);
  std::vector<double> logits(tokens), out(d, 0.0);
  for (int t = 0; t < tokens; ++t) {
    for (int i = 0; i < d; ++i) logits[t] += double{q[i]} * kv[size_t{2} * t * d + i];
    logits[t] /= std::sqrt(static_cast<double>(d));
  }
  const double maximum = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (int t = 0; t < tokens; ++t) {
    const double weight = std::exp(logits[t] - maximum);
    sum += weight;
    const double used = rounded ? RoundBf16(static_cast<float>(weight)) : weight;
    for (int i = 0; i < d; ++i) out[i] += used * kv[(size_t{2} * t + 1) * d + i];
  }
  for (double& x : out) x = rounded ? RoundBf16(static_cast<float>(x / sum)) : x / sum;
  return out;
}

// Errors relative to the exact results, squared, summed over rows.
struct Errors {
  double ours = 0, bf16 = 0;
  int rows = 0;
};
constexpr double kRounding = 1.0 / 512;  // half a unit in the last place of a bf16 result

double Distance(const float* a, const std::vector<double>& b) {
  double squares = 0;
  for (size_t i = 0; i < b.size(); ++i) squares += std::pow(a[i] - b[i], 2);
  return std::sqrt(squares);
}
double Distance(const std::vector<double>& a, const std::vector<double>& b) {
  double squares = 0;
  for (size_t i = 0; i < b.size(); ++i) squares += std::pow(a[i] - b[i], 2);
  return std::sqrt(squares);
}

void ExpectMatchesReference(const DecodeCase& c, int layer, const std::vector<float>& out) {
  const DecodeShape& s = c.shape();
  const std::vector<float> queries = c.Queries();
  Errors of_length[32];  // rows of [2^i, 2^(i+1)) tokens
  for (int t = 0; t < c.size(); ++t) {
    for (int head = 0; head < s.kv_heads; ++head) {
      const std::vector<float> kv = c.KeysValues(layer, t, head);
      if (kv.empty()) continue;
      for (int g = 0; g < s.group(); ++g) {
        const size_t row = (size_t{1} * t * s.q_heads + head * s.group() + g) * s.head_dim;
        const auto exact = Attend(&queries[row], kv, s.head_dim, false);
        const auto rounded = Attend(&queries[row], kv, s.head_dim, true);
        const double norm = Distance(exact, std::vector<double>(s.head_dim, 0.0));
        const double ours = Distance(&out[row], exact) / norm;
        const double bf16 = Distance(rounded, exact) / norm;
        const int tokens = c.EntryTokens(layer, t, head);
        // (NaN is not below anything.)
        ASSERT_LE(ours, std::max(2 * bf16, kRounding))
            << "token " << t << " head " << head << " query " << g << " of " << tokens;
        Errors& errors = of_length[std::bit_width(static_cast<unsigned>(tokens)) - 1];
        errors.ours += ours * ours, errors.bf16 += bf16 * bf16, ++errors.rows;
      }
    }
  }
  // Over many rows chance evens out. Where weights are but 0 and 1 bf16 makes hardly an error.
  for (const Errors& errors : of_length) {
    EXPECT_LE(errors.ours, 1.25 * 1.25 * errors.bf16 + errors.rows * std::pow(kRounding / 8, 2))
        << errors.rows << " rows of " << (1 << (&errors - of_length)) << " tokens or more";
  }
}

struct Config {
  const char* name;
  DecodeShape shape;
};

const Config kConfigs[] = {
    {"llama", {2, 32, 8, 128, 4, DType::kBF16}},
    {"llama_fp8", {2, 32, 8, 128, 4, DType::kF8E4M3}},
    {"group8_pages2", {2, 32, 4, 128, 2, DType::kBF16}},
    {"group8_fp8_pages8", {2, 32, 4, 128, 8, DType::kF8E4M3}},
    {"group7", {2, 28, 4, 128, 4, DType::kBF16}},
    {"d64_group1", {2, 8, 8, 64, 4, DType::kBF16}},
    {"d64_fp8", {2, 8, 4, 64, 4, DType::kF8E4M3}},
};

// Rows of very different lengths: the table is random, page edges among the lengths.
DecodeLoad RaggedLoad(const DecodeShape& shape, const std::vector<int32_t>& num_tokens,
                      uint64_t seed) {
  std::mt19937 random(seed);
  DecodeLoad load{num_tokens, {}, 512};
  const int boundaries = *std::max_element(num_tokens.begin(), num_tokens.end()) / load.chunk + 1;
  std::vector<int32_t> row(shape.num_rows(), 0);
  for (int k = 0; k < boundaries; ++k) {
    for (int32_t& tokens : row) {
      load.retained.push_back(tokens);
      tokens += random() % 5 == 0 ? load.chunk : random() % 9 * kPageTokens;
    }
  }
  return load;
}

class DecodeTest : public testing::TestWithParam<Config> {
 protected:
  void Check(const DecodeCase& c, bool simple) {
    c.Plan(nullptr);
    for (int layer = 0; layer < c.shape().layers; ++layer) {
      const_cast<DecodeCase&>(c).PoisonOutputs();
      c.Attend(layer, simple, nullptr);
      ExpectMatchesReference(c, layer, c.Output());
    }
  }
};

TEST_P(DecodeTest, PageEdgesAndUnusedTokens) {
  const DecodeLoad load =
      RaggedLoad(GetParam().shape, {1, 15, 16, 0, 17, 31, 32, 33, 0, 512, 513, 1000}, 1);
  for (bool simple : {true, false}) {
    Check(DecodeCase(GetParam().shape, load, {}, SplitMode::kEqualRanges, 132, true, 2), simple);
  }
}

TEST_P(DecodeTest, RaggedRowsSplitOverManyRanges) {
  const DecodeLoad load = RaggedLoad(GetParam().shape, {5000, 40, 2049, 700}, 3);
  for (bool simple : {true, false}) {
    for (int num_ranges : {4 * 132, 132, 7, 1}) {
      Check(DecodeCase(GetParam().shape, load, {}, SplitMode::kEqualRanges, num_ranges, true, 4),
            simple);
    }
  }
}

TEST_P(DecodeTest, BatchInvariant) {
  const DecodeLoad load = RaggedLoad(GetParam().shape, {5000, 40, 2049, 0, 700}, 5);
  for (bool simple : {true, false}) {
    Check(DecodeCase(GetParam().shape, load, {}, SplitMode::kBatchInvariant, 132, true, 6), simple);
  }
}

TEST_P(DecodeTest, OneLongRowAmongShortOnes) {
  std::vector<int32_t> num_tokens(40, 20);
  num_tokens[17] = 9000;
  const DecodeLoad load{num_tokens, std::vector<int32_t>(GetParam().shape.num_rows(), 0), 1 << 20};
  Check(DecodeCase(GetParam().shape, load, {}, SplitMode::kEqualRanges, 132, true, 7), false);
}

// Logits of thousands, of both signs: hardly a weight but 0 and 1.
TEST_P(DecodeTest, HugeLogits) {
  const DecodeLoad load = RaggedLoad(GetParam().shape, {1100, 40, 700}, 12);
  for (bool simple : {true, false}) {
    DecodeCase c(GetParam().shape, load, {}, SplitMode::kEqualRanges, 132, true, 13);
    c.MultiplyQueries(1000);
    Check(c, simple);
  }
}

// The same bits from every replay, and in batch-invariant mode whatever stands beside a sequence.
TEST_P(DecodeTest, Deterministic) {
  const DecodeLoad load = RaggedLoad(GetParam().shape, {3000, 40, 0, 2049, 700, 16}, 8);
  for (SplitMode mode : {SplitMode::kEqualRanges, SplitMode::kBatchInvariant}) {
    DecodeCase c(GetParam().shape, load, {}, mode, 132, true, 9);
    c.Plan(nullptr);
    c.Attend(0, false, nullptr);
    const auto first = c.Output();
    for (int i = 0; i < 100; ++i) {
      c.PoisonOutputs();
      c.Plan(nullptr);
      c.Attend(0, false, nullptr);
      const auto again = c.Output();
      ASSERT_EQ(0, std::memcmp(first.data(), again.data(), first.size() * sizeof(float)));
    }
  }
}

TEST_P(DecodeTest, BatchInvariantBesideOthersOrAlone) {
  const DecodeLoad load = RaggedLoad(GetParam().shape, {3000, 40, 2049, 700, 16}, 10);
  for (bool simple : {true, false}) {
    DecodeCase c(GetParam().shape, load, {}, SplitMode::kBatchInvariant, 132, true, 11);
    c.Plan(nullptr);
    c.Attend(1, simple, nullptr);
    const auto together = c.Output();
    const size_t row = together.size() / c.size();
    for (int t = 0; t < c.size(); ++t) {
      std::vector<int32_t> alone(c.size(), 0);
      alone[t] = load.num_tokens[t];
      c.SetNumTokens(alone);
      c.PoisonOutputs();
      c.Plan(nullptr);
      c.Attend(1, simple, nullptr);
      EXPECT_EQ(0, std::memcmp(&together[t * row], &c.Output()[t * row], row * sizeof(float)))
          << t << (simple ? ", simple" : "");
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, DecodeTest, testing::ValuesIn(kConfigs),
                         [](const auto& test) { return test.param.name; });

}  // namespace
}  // namespace tangram
