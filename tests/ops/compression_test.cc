// Scores, selection and in-place compaction, against the same done out of place on whole rows.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <random>
#include <vector>

#include "ops/compressed_sequence.h"

namespace tangram::ops::compressed {
namespace {

// What stays of a row: out of place, by sorting.
std::vector<Sequence::Token> KeepBest(const std::vector<Sequence::Token>& row, int locked,
                                      int kept) {
  const int end = static_cast<int>(row.size()) - kWindow;
  std::vector<int> candidates;
  for (int i = locked; i < end; ++i) candidates.push_back(i);
  std::ranges::stable_sort(candidates, [&](int a, int b) {
    const float x = row[static_cast<size_t>(a)].score, y = row[static_cast<size_t>(b)].score;
    return x != y ? x > y : a > b;
  });
  candidates.resize(static_cast<size_t>(kept - kWindow - locked));
  std::ranges::sort(candidates);
  std::vector<Sequence::Token> out(row.begin(), row.begin() + locked);
  for (int i : candidates) out.push_back(row[static_cast<size_t>(i)]);
  out.insert(out.end(), row.begin() + end, row.end());
  return out;
}

class CompressionTest : public testing::TestWithParam<std::tuple<std::string, DType>> {
 protected:
  std::unique_ptr<Backend> backend_ =
      std::get<0>(GetParam()) == "cpu" ? CreateCpuBackend(2) : CreateReferenceBackend();
  DType dtype_ = std::get<1>(GetParam());
};

float RandomScore(std::mt19937& random) { return std::normal_distribution<float>()(random); }
float FewValues(std::mt19937& random) { return static_cast<float>(random() % 3); }
float Equal(std::mt19937&) { return 1.0f; }

TEST_P(CompressionTest, CompactsLikeOutOfPlaceOverManyChunks) {
  for (float (*score)(std::mt19937&) : {RandomScore, FewValues, Equal}) {
    for (uint32_t seed = 0; seed < 20; ++seed) {
      Sequence sequence(*backend_, dtype_, seed);
      std::mt19937 random(seed);
      std::vector<int32_t> retained(kGroups);
      for (int chunk = 0; chunk < 5; ++chunk) {
        sequence.Append(kChunk, score);
        std::vector<int32_t> locked(kGroups), kept(kGroups);
        for (size_t group = 0; group < kGroups; ++group) {
          locked[group] = chunk == 0 ? kSinks : retained[group] - kWindow;
          // None, some or all of the candidates; all only while the group's pages last.
          const int least = locked[group] + kWindow;
          const int most = std::min(retained[group] + kChunk, kMaxPages * kPageSize - kChunk);
          const int choices[] = {least, most, least + static_cast<int>(random() % 16)};
          kept[group] = std::clamp(choices[random() % 3], least, std::max(least, most));
        }
        std::vector<std::vector<Sequence::Token>> expected;
        for (int h = 0; h < kAllHeads; ++h) {
          const auto group = static_cast<size_t>(sequence.group(h));
          expected.push_back(KeepBest(sequence.ReadRow(h), locked[group], kept[group]));
        }
        sequence.Compact((chunk + 1) * kChunk, kept);
        for (int h = 0; h < kAllHeads; ++h) {
          ASSERT_EQ(sequence.ReadRow(h), expected[static_cast<size_t>(h)])
              << "seed " << seed << " chunk " << chunk << " head " << h;
        }
        retained = kept;
      }
    }
  }
}

// The mean is the whole row's, however much of it is locked.
TEST_P(CompressionTest, KeyDiffFollowsItsFormulaAndLeavesOthersAlone) {
  const int locked = 16;
  Sequence sequence(*backend_, dtype_, 7);
  sequence.Append(kChunk, RandomScore);
  std::vector<std::vector<Sequence::Token>> before;
  for (int h = 0; h < kAllHeads; ++h) before.push_back(sequence.ReadRow(h));
  sequence.Score(kChunk, {.method = ScoreMethod::kKeyDiff, .sinks = locked});
  for (int h = 0; h < kAllHeads; ++h) {
    const auto& row = before[static_cast<size_t>(h)];
    double mean[kDim] = {};
    for (int t = 0; t < kChunk; ++t) {
      double norm = 0;
      for (float x : row[static_cast<size_t>(t)].key) norm += double{x} * x;
      for (int j = 0; j < kDim; ++j)
        mean[j] += row[static_cast<size_t>(t)].key[static_cast<size_t>(j)] / std::sqrt(norm);
    }
    for (int t = 0; t < kChunk; ++t) {
      const float score = sequence.Read(h, t).score;
      if (t < locked || t >= kChunk - kWindow) {
        EXPECT_EQ(score, row[static_cast<size_t>(t)].score);
        continue;
      }
      double dot = 0, a = 0, b = 0;
      for (int j = 0; j < kDim; ++j) {
        const double key = row[static_cast<size_t>(t)].key[static_cast<size_t>(j)];
        dot += key * mean[j];
        a += key * key;
        b += mean[j] * mean[j];
      }
      EXPECT_NEAR(score, -dot / std::sqrt(a * b), 1e-6);
    }
  }
}

TEST_P(CompressionTest, StreamingLlmKeepsTheMostRecent) {
  Sequence sequence(*backend_, dtype_, 9);
  sequence.Append(kChunk, RandomScore);
  const auto before = sequence.ReadRow(0);
  sequence.Score(kChunk, {.method = ScoreMethod::kStreamingLlm, .sinks = kSinks});
  sequence.Compact(kChunk, {32, 32});
  for (int i = kSinks; i < 32; ++i) {
    EXPECT_EQ(sequence.Read(0, i).key, before[static_cast<size_t>(i + kChunk - 32)].key) << i;
  }
}

// [count, Hkv]: 100, 101, ...
Buffer CountedScores(Backend& backend, int count) {
  Buffer buffer = backend.Allocate(static_cast<size_t>(count) * kHeads * sizeof(float));
  for (int i = 0; i < count * kHeads; ++i) {
    static_cast<float*>(buffer.data())[i] = static_cast<float>(100 + i);
  }
  return buffer;
}

TEST_P(CompressionTest, ScoresAreStoredBesideTheirTokens) {
  for (int layer = 0; layer < kLayers; ++layer) {
    Sequence sequence(*backend_, dtype_, 11);
    sequence.Append(30, Equal);
    // Tokens 2..6 of the step become tokens 13..17 of group 0 and 20..24 of group 1.
    sequence.Retain(kChunk, {11, 18});
    const SequenceSpan span{Sequence::kSlot, Sequence::kRetention, 2, 5, kChunk + 2, true};
    constexpr int kWidth = 3 * kHeads * kDim;
    const Buffer qkv = backend_->Allocate(7 * kWidth * sizeof(float));
    const Buffer scores = CountedScores(*backend_, 7);
    const float inv_freq[kDim / 2] = {};
    backend_->Append({.at = sequence.Begin(span, 7, layer),
                      .qkv = qkv.View(DType::kF32, {7, kWidth}),
                      .num_q_heads = kHeads,
                      .rope = {inv_freq},
                      .new_scores = scores.View(DType::kF32, {7, kHeads}),
                      .pool_scores = sequence.scores()});
    for (int h = 0; h < kAllHeads; ++h) {
      const int first = sequence.group(h) == 0 ? 13 : 20;
      for (int t = 0; t < 30; ++t) {
        const bool stored = h / kHeads == layer && t >= first && t < first + 5;
        EXPECT_EQ(sequence.Read(h, t).score,
                  stored ? static_cast<float>(100 + (t - first + 2) * kHeads + h % kHeads) : 1.0f);
      }
    }
  }
}

TEST_P(CompressionTest, ScoresOfAChunkAreStoredAtItsBoundary) {
  for (int layer = 0; layer < kLayers; ++layer) {
    Sequence sequence(*backend_, dtype_, 12);
    const std::vector<int32_t> retained = {13, 20};
    sequence.AppendGroups(retained, Equal);
    sequence.Append(kChunk, Equal);
    sequence.Retain(kChunk, retained);
    const Buffer scores = CountedScores(*backend_, kChunk);
    const BoundaryRange at = sequence.Begin(2 * kChunk);
    backend_->AppendScores({.step = at.step,
                            .boundary = at.boundary(0),
                            .layer = layer,
                            .scores = scores.View(DType::kF32, {kChunk, kHeads}),
                            .pool_scores = sequence.scores()});
    for (int h = 0; h < kAllHeads; ++h) {
      const int first = retained[static_cast<size_t>(sequence.group(h))];
      for (int t = 0; t < first + kChunk; ++t) {
        const bool stored = h / kHeads == layer && t >= first;
        EXPECT_EQ(sequence.Read(h, t).score,
                  stored ? static_cast<float>(100 + (t - first) * kHeads + h % kHeads) : 1.0f);
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Backends, CompressionTest,
                         testing::Combine(testing::Values("reference", "cpu"),
                                          testing::Values(DType::kF32, DType::kF16, DType::kBF16)),
                         [](const auto& test) {
                           return std::get<0>(test.param) + "_" +
                                  std::string(DTypeName(std::get<1>(test.param)));
                         });

}  // namespace
}  // namespace tangram::ops::compressed
