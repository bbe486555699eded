// The scorers that look at queries, against their formulas in float64 on whole rows, and to the bit
// however the chunk's tokens are cut into steps.

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <functional>

#include "ops/compressed_sequence.h"

namespace tangram::ops::compressed {
namespace {

constexpr int kQHeads = 6, kGroupHeads = kQHeads / kHeads, kWidth = (kQHeads + 2 * kHeads) * kDim;
constexpr int kLayer = 1;  // that is looked at; nothing comes of the others' heads
constexpr float kInvFreq[kDim / 2] = {1.0f, 0.1f, 0.01f, 0.001f};
using Vector = std::vector<double>;

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
    sequence_.AppendGroups(place.retained, [](std::mt19937&) { return 0.0f; });
    sequence_.Append(kChunk, [](std::mt19937&) { return -7.0f; });
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

  // The query of a token of the chunk, rotated or as it was before.
  Vector Query(int token, int q_head, bool rotated = true) const {
    const auto first = (rotated ? qkv_ : plain_).begin() + token * kWidth + q_head * kDim;
    return Vector(first, first + kDim);
  }
  int Locked(int head) const { return place_.Locked()[Group(head)]; }
  int Retained(int head) const { return place_.retained[Group(head)]; }
  int Length(int head) const { return Retained(head) + kChunk; }
  Vector Key(int head, int token) const {
    const auto key = sequence_.Read(kFirstHead + head, token).key;
    return Vector(key.begin(), key.end());
  }
  Vector Value(int head, int token) const {
    const auto value = sequence_.Read(kFirstHead + head, token).value;
    return Vector(value.begin(), value.end());
  }
  float ScoreOf(int head, int token) const {
    return sequence_.Read(kFirstHead + head, token).score;
  }
  const RopeView& rope() const { return rope_; }
  int boundary() const { return place_.boundary; }
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

double Dot(const Vector& a, const Vector& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

void Softmax(Vector* logits) {
  double largest = -INFINITY, sum = 0;
  for (double x : *logits) largest = std::max(largest, x);
  for (double& x : *logits) sum += x = std::exp(x - largest);
  for (double& x : *logits) x /= sum;
}

// What token `token` of the chunk pays each token of a head's row up to itself, 0 behind.
Vector Attention(const Chunk& chunk, int q_head, int token) {
  const int head = q_head / kGroupHeads;
  Vector weights;
  const Vector query = chunk.Query(token, q_head);
  for (int t = 0; t <= chunk.Retained(head) + token; ++t) {
    weights.push_back(Dot(query, chunk.Key(head, t)) / std::sqrt(double{kDim}));
  }
  Softmax(&weights);
  weights.resize(static_cast<size_t>(chunk.Length(head)));
  return weights;
}

double SnapKv(const Chunk& chunk, const QueryScoring& q, int head, int token) {
  Vector mean(static_cast<size_t>(chunk.Length(head)));
  for (int i = kChunk - q.query_window; i < kChunk; ++i) {
    for (int h = 0; h < kGroupHeads; ++h) {
      const Vector paid = Attention(chunk, head * kGroupHeads + h, i);
      for (size_t t = 0; t < mean.size(); ++t) mean[t] += paid[t] / (kGroupHeads * q.query_window);
    }
  }
  double largest = 0, sum = 0;
  for (int t = token - q.pool_kernel / 2; t <= token + q.pool_kernel / 2; ++t) {
    if (t < 0 || t >= chunk.Length(head)) continue;
    largest = std::max(largest, mean[static_cast<size_t>(t)]);
    if (t < chunk.Length(head) - kWindow) sum += mean[static_cast<size_t>(t)];
  }
  return q.pool_mean ? sum / q.pool_kernel : largest;
}

// Rows of other heads hold the same tokens at other places.
double Tova(const Chunk& chunk, int head, int token) {
  double sum = 0;
  for (int q_head = 0; q_head < kQHeads; ++q_head) {
    const int other = q_head / kGroupHeads;
    const int same = token - chunk.Locked(head) + chunk.Locked(other);
    sum += Attention(chunk, q_head, kChunk - 1)[static_cast<size_t>(same)];
  }
  return sum / kQHeads;
}

// The mean rotation, as a matrix [d, d].
std::vector<Vector> MeanRotation(const Chunk& chunk, int count) {
  std::vector<Vector> mean(kDim, Vector(kDim));
  const RopeView& rope = chunk.rope();
  for (int n = 0; n < count; ++n) {
    for (size_t i = 0; i < kDim / 2; ++i) {
      const bool half = rope.style == RopeStyle::kHalf;
      const size_t x = half ? i : 2 * i, y = half ? i + kDim / 2 : 2 * i + 1;
      const double angle = (chunk.boundary() + n) * double{rope.inv_freq[i]};
      mean[x][x] += std::cos(angle) * rope.scale / count;
      mean[y][y] += std::cos(angle) * rope.scale / count;
      mean[x][y] -= std::sin(angle) * rope.scale / count;
      mean[y][x] += std::sin(angle) * rope.scale / count;
    }
  }
  return mean;
}

// Scores of the tokens from the first candidate on, with the window.
Vector ExpectedAttention(const Chunk& chunk, const QueryScoring& q, int head) {
  const auto rotation = MeanRotation(chunk, q.future_positions);
  const int first_query = chunk.Retained(head) == 0 ? q.sinks : 0, first = chunk.Locked(head);
  Vector scores(static_cast<size_t>(chunk.Length(head) - first));
  for (int h = 0; h < kGroupHeads; ++h) {
    std::vector<Vector> queries;
    for (int i = first_query; i < kChunk; ++i) {
      const Vector plain = chunk.Query(i, head * kGroupHeads + h, false);
      Vector& rotated = queries.emplace_back();
      for (const Vector& row : rotation) rotated.push_back(Dot(row, plain));
    }
    Vector mean(kDim);
    const auto count = static_cast<double>(queries.size());
    for (const Vector& query : queries) {
      for (size_t i = 0; i < kDim; ++i) mean[i] += query[i] / count;
    }
    Vector logits;
    for (int t = first; t < chunk.Length(head); ++t) {
      const Vector key = chunk.Key(head, t);
      double variance = 0;
      for (const Vector& query : queries) variance += std::pow(Dot(query, key) - Dot(mean, key), 2);
      logits.push_back(Dot(mean, key) / std::sqrt(double{kDim}) +
                       (q.use_covariance ? variance / count / (2 * kDim) : 0));
    }
    Softmax(&logits);
    for (size_t t = 0; t < scores.size(); ++t) scores[t] += logits[t] / kGroupHeads;
  }
  for (size_t t = 0; q.use_value_norm && t < scores.size(); ++t) {
    const Vector value = chunk.Value(head, first + static_cast<int>(t));
    scores[t] = (scores[t] + q.epsilon) * std::sqrt(Dot(value, value));
  }
  return scores;
}

class QueryScoresTest : public testing::TestWithParam<std::tuple<std::string, DType>> {
 protected:
  std::unique_ptr<Backend> backend_ =
      std::get<0>(GetParam()) == "cpu" ? CreateCpuBackend(2) : CreateReferenceBackend();
  DType dtype_ = std::get<1>(GetParam());

  // expected(head, token), for the candidates; nothing else is written.
  void ExpectScores(const Chunk& chunk, const std::function<double(int, int)>& expected) {
    for (int h = 0; h < kHeads; ++h) {
      for (int t = 0; t < chunk.Length(h); ++t) {
        const float score = chunk.ScoreOf(h, t);
        if (t < chunk.Locked(h) || t >= chunk.Length(h) - kWindow) {
          EXPECT_EQ(score, t < chunk.Retained(h) ? 0.0f : -7.0f);
        } else {
          const double want = expected(h, t);
          EXPECT_NEAR(score, want, 1e-4 * std::abs(want)) << "head " << h << " token " << t;
        }
      }
    }
  }
};

TEST_P(QueryScoresTest, SnapKvFollowsItsFormula) {
  for (const Place& place : kPlaces) {
    for (const bool pool_mean : {false, true}) {
      QueryScoring q = Scoring(ScoreMethod::kSnapKv);
      q.pool_mean = pool_mean;
      Chunk chunk(*backend_, dtype_, place, ScoreMethod::kSnapKv, q);
      chunk.Observe(kChunk);
      chunk.Score();
      ExpectScores(chunk, [&](int h, int t) { return SnapKv(chunk, q, h, t); });
    }
  }
}

TEST_P(QueryScoresTest, TovaFollowsItsFormula) {
  for (const Place& place : kPlaces) {
    Chunk chunk(*backend_, dtype_, place, ScoreMethod::kTova, Scoring(ScoreMethod::kTova));
    chunk.Observe(kChunk);
    chunk.Score();
    ExpectScores(chunk, [&](int h, int t) { return Tova(chunk, h, t); });
  }
}

TEST_P(QueryScoresTest, ExpectedAttentionFollowsItsFormula) {
  const auto expect = [&](const Place& place, const QueryScoring& q, RopeStyle style) {
    Chunk chunk(*backend_, dtype_, place, ScoreMethod::kExpectedAttention, q, style);
    chunk.Observe(kChunk);
    chunk.Score();
    std::vector<Vector> scores;
    for (int h = 0; h < kHeads; ++h) scores.push_back(ExpectedAttention(chunk, q, h));
    ExpectScores(chunk, [&](int h, int t) {
      return scores[static_cast<size_t>(h)][static_cast<size_t>(t - chunk.Locked(h))];
    });
  };
  QueryScoring q = Scoring(ScoreMethod::kExpectedAttention);
  for (const Place& place : kPlaces) expect(place, q, RopeStyle::kHalf);
  expect(kPlaces[1], q, RopeStyle::kInterleaved);
  q.use_covariance = false;
  expect(kPlaces[1], q, RopeStyle::kHalf);
  q.use_value_norm = false;
  q.future_positions = 1;
  expect(kPlaces[0], q, RopeStyle::kHalf);
}

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
