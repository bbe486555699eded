// What scorers and compaction do to rows: the CPU as the reference does, which compacts out of
// place.

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <random>
#include <vector>

#include "ops/compressed_sequence.h"

namespace tangram::ops::compressed {
namespace {

class CompressionTest : public testing::TestWithParam<std::tuple<std::string, DType>> {
 protected:
  std::unique_ptr<Backend> backend_ =
      std::get<0>(GetParam()) == "cpu" ? CreateCpuBackend(2) : CreateReferenceBackend();
  DType dtype_ = std::get<1>(GetParam());
};

float RandomScore(std::mt19937& random) { return std::normal_distribution<float>()(random); }
float FewValues(std::mt19937& random) { return static_cast<float>(random() % 3); }
float Equal(std::mt19937&) { return 1.0f; }

// What a chunk's groups may keep: none, some or all of the candidates; all only while the group's
// pages last.
std::vector<int32_t> DrawKept(const std::vector<int32_t>& retained, int chunk,
                              std::mt19937& random) {
  std::vector<int32_t> kept;
  for (const int32_t before : retained) {
    const int least = chunk == 0 ? kSinks + kWindow : before;
    const int most = std::min(before + kChunk, kMaxPages * kPageSize - kChunk);
    const int choices[] = {least, most, least + static_cast<int>(random() % 16)};
    kept.push_back(std::clamp(choices[random() % 3], least, std::max(least, most)));
  }
  return kept;
}

TEST(CompactTest, KeepsWhatTheReferenceKeepsOverManyChunks) {
  const auto reference = CreateReferenceBackend(), cpu = CreateCpuBackend(2);
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    for (float (*score)(std::mt19937&) : {RandomScore, FewValues, Equal}) {
      for (uint32_t seed = 0; seed < 20; ++seed) {
        Sequence expected(*reference, dtype, seed), sequence(*cpu, dtype, seed);
        std::mt19937 random(seed);
        std::vector<int32_t> retained(kGroups);
        for (int chunk = 0; chunk < 5; ++chunk) {
          retained = DrawKept(retained, chunk, random);
          for (Sequence* each : {&expected, &sequence}) {
            each->Append(kChunk, score);
            each->Compact((chunk + 1) * kChunk, retained);
          }
          for (int h = 0; h < kAllHeads; ++h) {
            ASSERT_EQ(sequence.ReadRow(h), expected.ReadRow(h))
                << "seed " << seed << " chunk " << chunk << " head " << h;
          }
        }
      }
    }
  }
}

// By hand: the candidates 4 to 55 have the scores 0, 1, 2, 0, ... of which the last 2s stay.
TEST_P(CompressionTest, TheBestStayAndOnTiesTheLater) {
  Sequence sequence(*backend_, dtype_, 7);
  int next = 0;
  sequence.Append(kChunk, [&](std::mt19937&) {
    return static_cast<float>((next++ % kChunk + kChunk - kSinks) % kChunk % 3);
  });
  const auto before = sequence.ReadRow(0);
  sequence.Compact(kChunk, {kSinks + 3 + kWindow, kSinks + 3 + kWindow});
  std::vector<Sequence::Token> expected(before.begin(), before.begin() + kSinks);
  for (const size_t token : {48u, 51u, 54u}) expected.push_back(before[token]);
  expected.insert(expected.end(), before.end() - kWindow, before.end());
  EXPECT_EQ(sequence.ReadRow(0), expected);
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
