// Scores at a boundary: those of the CPU against the reference's, and of each to the bit however
// the chunk's tokens are cut into steps.

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "ops/compressed_sequence.h"

namespace tangram::ops::compressed {
namespace {

constexpr int kQHeads = 6, kGroupHeads = kQHeads / kHeads, kWidth = (kQHeads + 2 * kHeads) * kDim;
constexpr int kLayer = 1;  // that is looked at; nothing comes of the others' heads
constexpr float kInvFreq[kDim / 2] = {1.0f, 0.1f, 0.01f, 0.001f};
// What the array of scores holds before anything is scored.
constexpr float kKeptScore = 0, kNewScore = -7;

// A chunk's place: what the groups kept before it.
struct Place {
  int boundary;  // at the chunk's end
  std::vector<int32_t> retained;
  std::vector<int32_t> Locked() const {
    if (boundary == kChunk) return {kSinks, kSinks};
    return {retained[0] - kWindow, retained[1] - kWindow};
  }
};
const Place kPlaces[] = {{kChunk, {0, 0}}, {3 * kChunk, {32, 96}}};

QueryScoring Scoring(ScoreMethod method) {
  QueryScoring q;
  q.num_q_heads = kQHeads;
  q.chunk = kChunk;
  q.sinks = kSinks;
  if (method == ScoreMethod::kSnapKv) {
    q.query_window = 16;
    q.pool_kernel = 7;
  }
  return q;
}

// A chunk of random tokens behind what rows kept, with its queries.
class Chunk {
 public:
  Chunk(Backend& backend, DType dtype, const Place& place, ScoreMethod method,
        const QueryScoring& scoring, RopeStyle style = RopeStyle::kHalf)
      : backend_(backend),
        place_(place),
        method_(method),
        scoring_(scoring),
        rope_{kInvFreq, 1.25f, style},
        sequence_(backend, dtype, 5) {
    if (place.boundary > kChunk) sequence_.Retain(place.boundary - kChunk, place.retained);
    sequence_.AppendGroups(place.retained, [](std::mt19937&) { return kKeptScore; });
    sequence_.Append(kChunk, [](std::mt19937&) { return kNewScore; });
    std::mt19937 random(17);
    std::normal_distribution<float> normal(0.3f, 1.5f);
    for (int i = 0; i < kChunk; ++i) {
      positions_.push_back(place.boundary - kChunk + i);
      for (int j = 0; j < kWidth; ++j) plain_.push_back(normal(random));
    }
    qkv_ = plain_;
    for (int i = 0; i < kChunk; ++i) {
      for (int h = 0; h < kQHeads; ++h) Rotate(i, h);
    }
    state_.assign(backend.QueryStateBytes(method, scoring, kWindow, kShape) / sizeof(float), NAN);
  }

  // The chunk in steps of these many tokens at most.
  void Observe(int step) {
    for (int n = 0; n < kChunk; n += step) {
      ObserveTokens(n, std::min(step, kChunk - n));
    }
  }
  void ObserveTokens(int first, int count, bool compressed = true) {
    const SequenceSpan span{
        Sequence::kSlot, Sequence::kRetention, first, count, positions_[static_cast<size_t>(first)],
        compressed};
    backend_.ObserveQueries({.at = sequence_.Begin(span, kChunk, kLayer),
                             .method = method_,
                             .queries = scoring_,
                             .window = kWindow,
                             .qkv = {qkv_.data(), DType::kF32, {kChunk, kWidth}},
                             .rope = rope_,
                             .state = state_.data(),
                             .shape = kShape});
  }
  void Score() {
    sequence_.Score(place_.boundary,
                    {.method = method_,
                     .sinks = kSinks,
                     .queries = scoring_,
                     .rope = rope_,
                     .state = state_.data(),
                     .shape = kShape},
                    kLayer);
  }

  int Locked(int head) const { return place_.Locked()[Group(head)]; }
  int Retained(int head) const { return place_.retained[Group(head)]; }
  int Length(int head) const { return Retained(head) + kChunk; }
  float ScoreOf(int head, int token) const {
    return sequence_.Read(kFirstHead + head, token).score;
  }
  const std::vector<float>& state() const { return state_; }

 private:
  static constexpr QueryStateShape kShape = {2, kLayers, kHeads, kDim};
  static constexpr int kFirstHead = kLayer * kHeads;

  size_t Group(int head) const { return static_cast<size_t>(sequence_.group(kFirstHead + head)); }
  void Rotate(int token, int q_head) {
    float* head = &qkv_[static_cast<size_t>(token * kWidth + q_head * kDim)];
    for (int i = 0; i < kDim / 2; ++i) {
      const bool half = rope_.style == RopeStyle::kHalf;
      float &x = head[half ? i : 2 * i], &y = head[half ? i + kDim / 2 : 2 * i + 1];
      const double angle =
          static_cast<double>(positions_[static_cast<size_t>(token)]) * rope_.inv_freq[i];
      const double c = std::cos(angle) * rope_.scale, s = std::sin(angle) * rope_.scale;
      const double a = x, b = y;
      x = static_cast<float>(a * c - b * s);
      y = static_cast<float>(a * s + b * c);
    }
  }

  Backend& backend_;
  Place place_;
  ScoreMethod method_;
  QueryScoring scoring_;
  RopeView rope_;
  Sequence sequence_;
  std::vector<int32_t> positions_;
  std::vector<float> plain_, qkv_, state_;
};

// A method with its settings.
struct Case {
  ScoreMethod method;
  QueryScoring queries;
  RopeStyle style = RopeStyle::kHalf;
};

std::vector<Case> Cases() {
  std::vector<Case> cases;
  for (const ScoreMethod method :
       {ScoreMethod::kKeyDiff, ScoreMethod::kStreamingLlm, ScoreMethod::kSnapKv, ScoreMethod::kTova,
        ScoreMethod::kExpectedAttention}) {
    cases.push_back({method, Scoring(method)});
  }
  cases.push_back({ScoreMethod::kSnapKv, Scoring(ScoreMethod::kSnapKv)});
  cases.back().queries.pool_mean = true;
  QueryScoring expected = Scoring(ScoreMethod::kExpectedAttention);
  cases.push_back({ScoreMethod::kExpectedAttention, expected, RopeStyle::kInterleaved});
  expected.use_covariance = false;
  cases.push_back({ScoreMethod::kExpectedAttention, expected});
  expected.use_value_norm = false;
  expected.future_positions = 1;
  cases.push_back({ScoreMethod::kExpectedAttention, expected});
  return cases;
}

// Of the candidates; nothing else is written.
void ExpectScoresOf(const Chunk& expected, const Chunk& chunk) {
  for (int h = 0; h < kHeads; ++h) {
    for (int t = 0; t < chunk.Length(h); ++t) {
      const float score = chunk.ScoreOf(h, t), want = expected.ScoreOf(h, t);
      if (t < chunk.Locked(h) || t >= chunk.Length(h) - kWindow) {
        EXPECT_EQ(score, t < chunk.Retained(h) ? kKeptScore : kNewScore);
        EXPECT_EQ(want, score);
      } else {
        EXPECT_NE(want, t < chunk.Retained(h) ? kKeptScore : kNewScore);
        EXPECT_NEAR(score, want, 1e-4 * std::abs(want)) << "head " << h << " token " << t;
      }
    }
  }
}

class ScoresParityTest : public testing::TestWithParam<DType> {};

TEST_P(ScoresParityTest, EqualTheReference) {
  const auto reference = CreateReferenceBackend(), cpu = CreateCpuBackend(2);
  for (const auto& [method, queries, style] : Cases()) {
    for (const Place& place : kPlaces) {
      SCOPED_TRACE(fmt::format("method {} boundary {}", static_cast<int>(method), place.boundary));
      Chunk expected(*reference, GetParam(), place, method, queries, style);
      Chunk chunk(*cpu, GetParam(), place, method, queries, style);
      for (Chunk* each : {&expected, &chunk}) {
        if (LooksAtQueries(method)) each->Observe(kChunk);
        each->Score();
      }
      ExpectScoresOf(expected, chunk);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Types, ScoresParityTest,
                         testing::Values(DType::kF32, DType::kF16, DType::kBF16),
                         [](const auto& test) { return std::string(DTypeName(test.param)); });

class QueryScoresTest : public testing::TestWithParam<std::tuple<std::string, DType>> {
 protected:
  std::unique_ptr<Backend> backend_ =
      std::get<0>(GetParam()) == "cpu" ? CreateCpuBackend(2) : CreateReferenceBackend();
  DType dtype_ = std::get<1>(GetParam());
};

TEST_P(QueryScoresTest, SlicesChangeNoBit) {
  for (const ScoreMethod method :
       {ScoreMethod::kSnapKv, ScoreMethod::kTova, ScoreMethod::kExpectedAttention}) {
    for (const Place& place : kPlaces) {
      Chunk whole(*backend_, dtype_, place, method, Scoring(method));
      whole.Observe(kChunk);
      whole.Score();
      for (const int step : {1, 7, 50}) {
        Chunk sliced(*backend_, dtype_, place, method, Scoring(method));
        sliced.Observe(kChunk);  // of the slot's chunk before: overwritten
        sliced.Observe(step);
        ASSERT_EQ(0, std::memcmp(sliced.state().data(), whole.state().data(),
                                 whole.state().size() * sizeof(float)))
            << "steps of " << step;
        sliced.Score();
        for (int h = 0; h < kHeads; ++h) {
          for (int t = 0; t < whole.Length(h); ++t) {
            ASSERT_EQ(sliced.ScoreOf(h, t), whole.ScoreOf(h, t));
          }
        }
      }
    }
  }
}

TEST_P(QueryScoresTest, SequencesThatAreNeverCompressedLeaveNothing) {
  for (const ScoreMethod method : {ScoreMethod::kSnapKv, ScoreMethod::kExpectedAttention}) {
    Chunk chunk(*backend_, dtype_, kPlaces[0], method, Scoring(method));
    chunk.ObserveTokens(0, kChunk, false);
    for (const float x : chunk.state()) ASSERT_TRUE(std::isnan(x));
  }
}

INSTANTIATE_TEST_SUITE_P(Backends, QueryScoresTest,
                         testing::Combine(testing::Values("reference", "cpu"),
                                          testing::Values(DType::kF32, DType::kF16, DType::kBF16)),
                         [](const auto& test) {
                           return std::get<0>(test.param) + "_" +
                                  std::string(DTypeName(std::get<1>(test.param)));
                         });

}  // namespace
}  // namespace tangram::ops::compressed
