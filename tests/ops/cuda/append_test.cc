#include "ops/cuda/step/append.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <numeric>
#include <random>

#include "ops/cuda/case_support.h"
#include "ops/cuda/step/pages.h"

namespace tangram {
namespace {

struct Variant {
  const char* name;
  DecodeShape shape;
  bool norm, interleaved;
};

class AppendTest : public testing::TestWithParam<Variant> {
 protected:
  void SetUp() override {
    const int d = shape().head_dim;
    std::mt19937 random(1);
    std::normal_distribution<float> normal;
    inv_freq_ = RotationFrequencies(d);
    for (int i = 0; i < d; ++i) q_norm_.push_back(1 + 0.1f * normal(random));
    for (int i = 0; i < d; ++i) k_norm_.push_back(1 + 0.1f * normal(random));
  }

  const DecodeShape& shape() const { return GetParam().shape; }
  int heads() const { return shape().q_heads + 2 * shape().kv_heads; }

  // Appends `tokens` of random qkv to layer 1 and keeps what went in and what the queries became.
  void Append(const DecodeCase& c, const std::vector<int32_t>& position,
              const DeviceArray<int32_t>& slot, bool early_start) {
    in_.clear(), out_.clear(), new_scores_.clear();
    const int tokens = static_cast<int>(position.size());
    std::mt19937 random(2);
    std::normal_distribution<float> normal;
    std::vector<__nv_bfloat16> host(size_t{1} * tokens * heads() * shape().head_dim);
    for (__nv_bfloat16& x : host) x = __nv_bfloat16(normal(random));
    for (__nv_bfloat16 x : host) in_.push_back(static_cast<float>(x));
    DeviceArray<__nv_bfloat16> qkv(host);
    DeviceArray<int32_t> positions(position), table(std::vector<int32_t>(tokens, 0));
    DeviceArray<float> inv_freq(inv_freq_), q_norm(q_norm_), k_norm(k_norm_);
    const bool norm = GetParam().norm;
    for (int i = 0; i < tokens * shape().kv_heads; ++i) new_scores_.push_back(normal(random));
    DeviceArray<float> new_scores(new_scores_);
    scores_ = DeviceArray<float>(c.num_virtual_pages() * kPageTokens);
    scores_.FillBytes(0xff);
    ops::cuda::RunAppend(
        {qkv.data(), tokens, shape().q_heads, shape().kv_heads, norm ? q_norm.data() : nullptr,
         norm ? k_norm.data() : nullptr, 1e-6f, positions.data(), slot.data(), table.data(),
         inv_freq.data(), 1.25f, GetParam().interleaved, c.attention_params(1).kv,
         c.plan_params().tables, 1, new_scores.data(), scores_.data(), early_start},
        nullptr);
    for (__nv_bfloat16 x : qkv.Download()) out_.push_back(static_cast<float>(x));
  }

  // Head `head` of the qkv of a token as it must come out, in float64 but for the angle, which is
  // f32's.
  std::vector<double> Expected(int token, int position, int head) const {
    const int d = shape().head_dim;
    std::vector<double> x(&in_[(size_t{1} * token * heads() + head) * d],
                          &in_[(size_t{1} * token * heads() + head + 1) * d]);
    if (head >= shape().q_heads + shape().kv_heads) return x;
    if (GetParam().norm) {
      double squares = 0;
      for (double v : x) squares += v * v;
      for (int i = 0; i < d; ++i) {
        x[i] *= (head < shape().q_heads ? q_norm_ : k_norm_)[i] / std::sqrt(squares / d + 1e-6);
      }
    }
    for (int i = 0; i < d / 2; ++i) {
      const double angle = position * inv_freq_[i];  // a product of floats
      const double cosine = 1.25 * std::cos(angle), sine = 1.25 * std::sin(angle);
      double& a = GetParam().interleaved ? x[2 * i] : x[i];
      double& b = GetParam().interleaved ? x[2 * i + 1] : x[i + d / 2];
      const double old_a = a;
      a = a * cosine - b * sine;
      b = b * cosine + old_a * sine;
    }
    return x;
  }

  void ExpectKv(const std::vector<float>& kv, int index, int token, int position, int kv_head) {
    const int d = shape().head_dim;
    const double step =
        shape().dtype == DType::kBF16 ? 1.0 / 256 : 1.0 / 16;  // half a unit in the last place
    for (int v = 0; v < 2; ++v) {
      const auto expected =
          Expected(token, position, shape().q_heads + v * shape().kv_heads + kv_head);
      for (int i = 0; i < d; ++i) {
        ASSERT_NEAR(kv[(size_t{2} * index + v) * d + i], expected[i],
                    step * std::abs(expected[i]) + 1e-3)
            << "token " << token << " head " << kv_head << " value " << v << " dim " << i;
      }
    }
  }
  void ExpectQueries(int token, int position) {
    const int d = shape().head_dim;
    for (int head = 0; head < shape().q_heads; ++head) {
      const auto expected = Expected(token, position, head);
      for (int i = 0; i < d; ++i) {
        ASSERT_NEAR(out_[(size_t{1} * token * heads() + head) * d + i], expected[i],
                    std::abs(expected[i]) / 256 + 1e-4)
            << "token " << token << " head " << head << " dim " << i;
      }
    }
  }

  // The score beside the token at `index` of a head's row.
  float ScoreAt(const DecodeCase& c, int sequence, int head, int index) const {
    return scores_.Download()[ScoreIndex(c.VirtualPages(1, sequence, head), index)];
  }

  DeviceArray<float> scores_;
  std::vector<float> new_scores_;
  std::vector<float> inv_freq_, q_norm_, k_norm_, in_, out_;
};

// One token for each sequence, behind boundaries: it lands at the end of rows of different lengths,
// and nowhere else.
TEST_P(AppendTest, Decode) {
  DecodeLoad load{{1, 16, 0, 17, 513, 1030, 512}, {}, 512};
  for (int k = 0; k < 3; ++k) {
    for (int row = 0; row < shape().num_rows(); ++row) load.retained.push_back(16 * k * (row % 5));
  }
  const DecodeCase c(shape(), load, {}, ops::cuda::SplitMode::kEqualRanges, 132, true, 3);
  std::vector<int32_t> position;
  for (int n : load.num_tokens) position.push_back(n - 1);
  const auto before = c.Pool();
  std::vector<std::vector<float>> kv_before;
  for (int t = 0; t < c.size(); ++t) kv_before.push_back(c.KeysValues(1, t, 1));
  DeviceArray<int32_t> slot(c.plan_params().batch.size);
  cudaMemcpy(slot.data(), c.plan_params().batch.slot, slot.bytes(), cudaMemcpyDeviceToDevice);
  Append(c, position, slot, true);
  for (int t = 0; t < c.size(); ++t) {
    if (position[t] < 0) continue;
    ExpectQueries(t, position[t]);
    for (int head = 0; head < shape().kv_heads; ++head) {
      const auto kv = c.KeysValues(1, t, head);
      EXPECT_EQ(ScoreAt(c, t, head, c.EntryTokens(1, t, head) - 1),
                new_scores_[t * shape().kv_heads + head]);
      ExpectKv(kv, c.EntryTokens(1, t, head) - 1, t, position[t], head);
      if (head != 1) continue;
      for (size_t i = 0; i + 2 * shape().head_dim < kv.size(); ++i)
        ASSERT_EQ(kv[i], kv_before[t][i]);
    }
  }
  const auto after = c.Pool();
  const size_t row_bytes = shape().page_bytes() / (2 * kPageTokens);
  size_t changed = 0;
  for (size_t i = 0; i < after.size(); i += row_bytes) {
    changed += std::memcmp(&before[i], &after[i], row_bytes) != 0;
  }
  EXPECT_EQ(changed, size_t{6} * 2 * shape().kv_heads);  // six used tokens
}

// Many tokens of one sequence in a call, far positions among them.
TEST_P(AppendTest, Prefill) {
  const int tokens = 1500;
  const DecodeLoad load{{100, tokens}, std::vector<int32_t>(shape().num_rows(), 0), 1 << 20};
  const DecodeCase c(shape(), load, {}, ops::cuda::SplitMode::kEqualRanges, 132, true, 4);
  std::vector<int32_t> position(tokens);
  std::iota(position.begin(), position.end(), 0);
  for (const bool early_start : {false, true}) {
    Append(c, position, DeviceArray<int32_t>(std::vector<int32_t>(tokens, 0)),  // sequence 1's slot
           early_start);
    const auto kv = c.KeysValues(1, 1, 1);
    for (int t = 0; t < tokens; t += 37) {
      ExpectQueries(t, t);
      ExpectKv(kv, t, t, t, 1);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, AppendTest,
    testing::Values(Variant{"llama", {2, 32, 8, 128, 4, DType::kBF16}, false, false},
                    Variant{"qwen3_fp8", {2, 32, 8, 128, 4, DType::kF8E4M3}, true, false},
                    Variant{"interleaved", {2, 28, 4, 128, 4, DType::kBF16}, false, true},
                    Variant{"d64", {2, 14, 2, 64, 2, DType::kBF16}, true, false},
                    Variant{"d64_fp8", {2, 9, 3, 64, 3, DType::kF8E4M3}, false, false}),
    [](const auto& test) { return test.param.name; });

}  // namespace
}  // namespace tangram
