#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <random>

#include "ops/cuda/compress/score_queries.h"
#include "ops/cuda/compress_case.h"
#include "ops/cuda/numeric.h"
#include "ops/cuda/step/append.h"

// Six chunks of a sequence, one after another: appended in slices, with and without tokens of other
// sequences in the same launch, scored, selected, compacted.

namespace tangram {
namespace {

constexpr int kChunks = 6, kTokens = kChunks * kChunk;
constexpr int kQueryWindow = 32, kLayer = 1;
constexpr int kOthers = 64, kOtherTokens = 17;

enum class Scorer { kGate, kKeyDiff, kStreamingLlm, kSnapKv, kTova, kExpectedAttention };

struct Variant {
  DType dtype;
  int head_dim;
  Scorer scorer;
};

// What the heads of the layer hold in the end.
struct Held {
  std::vector<std::vector<float>> keys_values, scores;
  bool operator==(const Held&) const = default;
};

class ChunksTest : public testing::TestWithParam<Variant> {
 protected:
  ChunksTest()
      : shape_{2, 8, 2, GetParam().head_dim, 1, GetParam().dtype},
        qkv_(ops::cuda::RandomBf16(size_t{kTokens} * shape_.qkv_width(), 3)),
        others_(ops::cuda::RandomBf16(size_t{kOthers} * shape_.qkv_width(), 4)) {
    std::mt19937 random(5);
    std::normal_distribution<float> normal;
    for (int i = 0; i < kTokens * shape_.kv_heads; ++i) gate_.push_back(normal(random));
    std::vector<int32_t> row(shape_.num_rows(), 0);
    for (int k = 0; k <= kChunks; ++k) {
      retained_.insert(retained_.end(), row.begin(), row.end());
      for (int32_t& r : row) {
        r = std::max<int32_t>(48, r + random() % (kChunk / kPageTokens + 1) * kPageTokens);
      }
    }
    inv_freq_ = DeviceArray<float>(RotationFrequencies(shape_.head_dim));
  }

  DecodeCase MakeCase(const std::vector<int32_t>& retained, int chunk) const {
    std::vector<int32_t> tokens(1 + kOthers, kOtherTokens);
    tokens[0] = kTokens;
    return DecodeCase(shape_, {tokens, retained, chunk}, {}, ops::cuda::SplitMode::kEqualRanges,
                      132, true, 6);
  }
  int Row(int head) const { return kLayer * shape_.kv_heads + head; }  // groups of one

  // Appends tokens [first, last) of the sequence, and tokens of others behind them.
  void Append(const DecodeCase& c, int first, int last, bool others) {
    std::vector<__nv_bfloat16> qkv(qkv_.begin() + size_t{1} * first * shape_.qkv_width(),
                                   qkv_.begin() + size_t{1} * last * shape_.qkv_width());
    std::vector<float> gate(gate_.begin() + first * shape_.kv_heads,
                            gate_.begin() + last * shape_.kv_heads);
    std::vector<int32_t> position, slot;
    for (int t = first; t < last; ++t) position.push_back(t), slot.push_back(c.size() - 1);
    for (int i = 0; others && i < kOthers; ++i) {
      qkv.insert(qkv.end(), others_.begin() + size_t{1} * i * shape_.qkv_width(),
                 others_.begin() + size_t{1} * (i + 1) * shape_.qkv_width());
      gate.insert(gate.end(), shape_.kv_heads, 1e9f);
      position.push_back(kOtherTokens - 1), slot.push_back(i);
    }
    const int tokens = static_cast<int>(position.size());
    const DeviceArray<__nv_bfloat16> device_qkv(qkv);
    const DeviceArray<int32_t> positions(position), slots(slot),
        table(std::vector<int32_t>(tokens, 0));
    const DeviceArray<float> new_scores(gate);
    ops::cuda::RunAppend({device_qkv.data(), tokens, shape_.q_heads, shape_.kv_heads, nullptr,
                          nullptr, 1e-6f, positions.data(), slots.data(), table.data(),
                          inv_freq_.data(), 1, false, c.attention_params(kLayer).kv,
                          c.plan_params().tables, kLayer, new_scores.data(), scores_.data()},
                         nullptr);
    if (kept_.count > 0) {
      ops::cuda::RunKeepQueries({device_qkv.data(), tokens, shape_.kv_heads, shape_.head_dim,
                                 positions.data(), slots.data(), kChunk, kLayer, kept_},
                                nullptr);
    }
    TANGRAM_CUDA_CHECK(cudaDeviceSynchronize());
  }

  void Score(const CompressParams& rows) {
    switch (GetParam().scorer) {
      case Scorer::kGate:
        break;
      case Scorer::kKeyDiff:
        ops::cuda::RunScoreKeyDiff(rows, nullptr);
        break;
      case Scorer::kStreamingLlm:
        ops::cuda::RunScoreStreamingLlm(rows, nullptr);
        break;
      case Scorer::kSnapKv:
      case Scorer::kTova: {
        const bool tova = GetParam().scorer == Scorer::kTova;
        ops::cuda::AttentionScoreParams p{
            rows,         kept_,
            0.1f,         tova ? ops::cuda::AttentionPool::kNone : ops::cuda::AttentionPool::kMax,
            tova ? 1 : 7, tova,
            kTokens,      nullptr};
        DeviceArray<char> scratch(AttentionScoreScratchBytes(p));
        p.scratch = scratch.data();
        RunScoreAttention(p, nullptr);
        TANGRAM_CUDA_CHECK(cudaDeviceSynchronize());
        break;
      }
      case Scorer::kExpectedAttention: {
        ops::cuda::ExpectedAttentionParams p{rows, kept_, inv_freq_.data(), 1, false, true, true,
                                             512,  0.01f, nullptr};
        DeviceArray<char> scratch(ExpectedAttentionScratchBytes(p));
        p.scratch = scratch.data();
        RunScoreExpectedAttention(p, nullptr);
        TANGRAM_CUDA_CHECK(cudaDeviceSynchronize());
      }
    }
  }

  Held Run(int slice, bool others) {
    DecodeCase c = MakeCase(retained_, kChunk);
    scores_ = DeviceArray<float>(c.num_virtual_pages() * kPageTokens);
    scores_.FillBytes(0xff);
    const bool looks = GetParam().scorer >= Scorer::kSnapKv;
    const int count = GetParam().scorer == Scorer::kSnapKv ? kQueryWindow
                      : GetParam().scorer == Scorer::kTova ? 1
                                                           : kChunk;
    DeviceArray<__nv_bfloat16> queries(size_t{1} * c.size() * shape_.layers * count *
                                       shape_.q_heads * shape_.head_dim);
    queries.FillBytes(0xff);
    kept_ = {queries.data(), shape_.layers, shape_.q_heads, looks ? count : 0};
    const DeviceArray<int32_t> slot(std::vector<int32_t>{c.size() - 1}),
        table(std::vector<int32_t>{0});
    for (int k = 1; k <= kChunks; ++k) {
      for (int t = (k - 1) * kChunk; t < k * kChunk; t += slice) {
        Append(c, t, std::min(t + slice, k * kChunk), others);
      }
      const DeviceArray<int32_t> boundary(std::vector<int32_t>{k});
      const CompressParams rows{{1, slot.data(), boundary.data(), table.data()},
                                c.plan_params().tables,
                                c.attention_params(kLayer).kv,
                                scores_.data(),
                                shape_.kv_heads,
                                kLayer,
                                1,
                                kWindow,
                                kSinks};
      Score(rows);
      RunSelectAndCompact(rows, nullptr);
      TANGRAM_CUDA_CHECK(cudaDeviceSynchronize());
    }
    return Read(c, scores_.Download(),
                [&](int head) { return retained_[kChunks * shape_.num_rows() + Row(head)]; });
  }

  // The first `length(head)` tokens of each head.
  Held Read(const DecodeCase& c, const std::vector<float>& scores,
            const std::function<int(int)>& length) const {
    Held held;
    for (int head = 0; head < shape_.kv_heads; ++head) {
      auto kv = c.KeysValues(kLayer, 0, head);
      kv.resize(size_t{2} * length(head) * shape_.head_dim);
      held.keys_values.push_back(std::move(kv));
      const auto pages = c.VirtualPages(kLayer, 0, head);
      held.scores.emplace_back();
      for (int i = 0; i < length(head); ++i) {
        held.scores.back().push_back(scores[ScoreIndex(pages, i)]);
      }
    }
    return held;
  }

  // Of the gate: which tokens a head keeps through all boundaries, out of place.
  std::vector<int> KeptByGate(int head) const {
    std::vector<int> row;
    for (int k = 1; k <= kChunks; ++k) {
      const int before = static_cast<int>(row.size());
      const int after = retained_[k * shape_.num_rows() + Row(head)];
      for (int t = (k - 1) * kChunk; t < k * kChunk; ++t) row.push_back(t);
      const int first = std::max(kSinks, before - kWindow), last = int(row.size()) - kWindow;
      std::vector<int> candidates(row.begin() + first, row.begin() + last);
      std::sort(candidates.begin(), candidates.end(), [&](int a, int b) {
        return gate_[a * shape_.kv_heads + head] > gate_[b * shape_.kv_heads + head];
      });
      candidates.resize(after - kWindow - first);
      std::sort(candidates.begin(), candidates.end());
      candidates.insert(candidates.begin(), row.begin(), row.begin() + first);
      candidates.insert(candidates.end(), row.begin() + last, row.end());
      row = candidates;
    }
    return row;
  }

  DecodeShape shape_;
  std::vector<__nv_bfloat16> qkv_, others_;
  std::vector<float> gate_;
  std::vector<int32_t> retained_;
  DeviceArray<float> inv_freq_, scores_;
  ops::cuda::KeptQueries kept_{};
};

TEST_P(ChunksTest, SlicesAndOthersInTheStepChangeNoBit) {
  const Held whole = Run(kChunk, false);
  for (const int slice : {37, 128, kChunk}) {
    for (const bool others : {false, true}) {
      const Held held = Run(slice, others);
      EXPECT_TRUE(held.keys_values == whole.keys_values) << slice << " " << others;
      EXPECT_TRUE(held.scores == whole.scores) << slice << " " << others;
    }
  }
}

using GateChunksTest = ChunksTest;
TEST_P(GateChunksTest, HoldsWhatSelectionOutOfPlaceHolds) {
  const Held held = Run(100, true);
  // The same tokens uncompressed.
  const DecodeCase c = MakeCase(std::vector<int32_t>(size_t{1} * shape_.num_rows(), 0), 1 << 20);
  scores_ = DeviceArray<float>(c.num_virtual_pages() * kPageTokens);
  scores_.FillBytes(0xff);
  kept_.count = 0;
  Append(c, 0, kTokens, false);
  const Held all = Read(c, scores_.Download(), [](int) { return kTokens; });
  const size_t token = size_t{2} * shape_.head_dim;
  for (int head = 0; head < shape_.kv_heads; ++head) {
    const std::vector<int> kept = KeptByGate(head);
    ASSERT_EQ(held.scores[head].size(), kept.size());
    for (size_t i = 0; i < kept.size(); ++i) {
      ASSERT_EQ(held.scores[head][i], gate_[kept[i] * shape_.kv_heads + head]) << head << " " << i;
      ASSERT_TRUE(std::equal(&held.keys_values[head][i * token],
                             &held.keys_values[head][i * token] + token,
                             &all.keys_values[head][kept[i] * token]))
          << head << " " << i;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Scorers, ChunksTest,
                         testing::Values(Variant{DType::kBF16, 128, Scorer::kGate},
                                         Variant{DType::kF8E4M3, 128, Scorer::kKeyDiff},
                                         Variant{DType::kBF16, 64, Scorer::kStreamingLlm},
                                         Variant{DType::kBF16, 128, Scorer::kSnapKv},
                                         Variant{DType::kF8E4M3, 128, Scorer::kTova},
                                         Variant{DType::kBF16, 128, Scorer::kExpectedAttention},
                                         Variant{DType::kF8E4M3, 64, Scorer::kExpectedAttention}));
INSTANTIATE_TEST_SUITE_P(Gate, GateChunksTest,
                         testing::Values(Variant{DType::kBF16, 128, Scorer::kGate},
                                         Variant{DType::kF8E4M3, 64, Scorer::kGate}));

}  // namespace
}  // namespace tangram
