// Scores, selection and in-place compaction, against the same done out of place on whole rows.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <random>
#include <vector>

#include "ops/backend.h"
#include "ops/kv_element.h"

namespace tangram::ops {
namespace {

constexpr int kPageSize = 16, kGroup = 3, kHeads = 3, kDim = 8, kRows = 2, kMaxPages = 16;
constexpr int kWindow = 8, kSinks = 4, kChunk = 64, kNumPages = 40;

// One sequence (slot 1 of 2) whose heads lie in columns of two rows, its pages in random order.
class Sequence {
 public:
  Sequence(Backend& backend, DType dtype, uint32_t seed)
      : backend_(backend),
        random_(seed),
        ids_(2 * kRows * kMaxPages, -1),
        scores_(kNumPages * kGroup * kPageSize) {
    buffer_ = backend.Allocate(BytesFor(dtype, int64_t{kNumPages} * kGroup * 2 * kPageSize * kDim));
    pool_ = {buffer_.data(), dtype, kPageSize, kGroup, kDim, kNumPages};
    std::vector<int32_t> pages(kNumPages);
    for (int i = 0; i < kNumPages; ++i) pages[static_cast<size_t>(i)] = i;
    std::ranges::shuffle(pages, random_);
    for (int row = 0; row < kRows; ++row) {
      for (int i = 0; i < kMaxPages; ++i) {
        ids_[static_cast<size_t>((kRows + row) * kMaxPages + i)] =
            pages[static_cast<size_t>(row * kMaxPages + i)];
      }
    }
  }

  struct Token {
    std::vector<float> key, value;
    float score;
    bool operator==(const Token&) const = default;
  };

  // Appends tokens with random contents to every head's row; scores from `score`.
  template <class ScoreOf>
  void Append(int count, ScoreOf score) {
    std::normal_distribution<float> normal;
    for (int h = 0; h < kHeads; ++h) {
      auto& length = length_[static_cast<size_t>(h)];
      for (int i = 0; i < count; ++i, ++length) {
        for (int j = 0; j < kDim; ++j) {
          StoreKv(pool_, KeyIndex(h, length, j), normal(random_));
          StoreKv(pool_, ValueIndex(h, length, j), normal(random_));
        }
        scores_[static_cast<size_t>(Place(h, length))] = score(random_);
      }
    }
  }

  Token Read(int head, int token) const {
    Token t{std::vector<float>(kDim), std::vector<float>(kDim),
            scores_[static_cast<size_t>(Place(head, token))]};
    for (int j = 0; j < kDim; ++j) {
      t.key[static_cast<size_t>(j)] = LoadKv(pool_, KeyIndex(head, token, j));
      t.value[static_cast<size_t>(j)] = LoadKv(pool_, ValueIndex(head, token, j));
    }
    return t;
  }
  std::vector<Token> ReadRow(int head) const {
    std::vector<Token> row;
    for (int i = 0; i < length_[static_cast<size_t>(head)]; ++i) row.push_back(Read(head, i));
    return row;
  }

  // Rows 0 and 1 keep different numbers; heads 0 and 2 lie in row 0, head 1 in row 1.
  void Compact(const std::vector<int32_t>& locked, const std::vector<int32_t>& kept) {
    const auto lengths = RowLengths();
    const BoundarySpan span{1, kChunk, locked.data(), lengths.data(), kept.data()};
    backend_.Compact({kHeads, kWindow, pool_, scores_.data(), pages(), heads(), {&span, 1}});
    backend_.Synchronize();
    for (size_t h = 0; h < kHeads; ++h) length_[h] = kept[static_cast<size_t>(row_[h])];
  }
  void Score(ScoreMethod method, const std::vector<int32_t>& locked) {
    const auto lengths = RowLengths();
    const BoundarySpan span{1, kChunk, locked.data(), lengths.data(), lengths.data()};
    backend_.Score({method, kHeads, kWindow, pool_, scores_.data(), pages(), heads(), {&span, 1}});
    backend_.Synchronize();
  }
  void AppendScores(const TensorView& scores, const std::vector<int32_t>& history, int count) {
    const SequenceSpan span{1, 2, count, history.data()};
    backend_.AppendScores({scores, pool_, scores_.data(), pages(), heads(), {&span, 1}});
    backend_.Synchronize();
  }

  int row(int head) const { return row_[static_cast<size_t>(head)]; }

 private:
  std::vector<int32_t> RowLengths() const { return {length_[0], length_[1]}; }
  PageTableView pages() const { return {ids_.data(), kRows, kMaxPages}; }
  LayerHeadMap heads() const { return {row_.data(), column_.data()}; }
  int64_t VirtualPage(int head, int token) const {
    const int64_t entry = (kRows + row(head)) * kMaxPages + token / kPageSize;
    return int64_t{ids_[static_cast<size_t>(entry)]} * kGroup + column_[static_cast<size_t>(head)];
  }
  int64_t Place(int head, int token) const {
    return VirtualPage(head, token) * kPageSize + token % kPageSize;
  }
  int64_t KeyIndex(int head, int token, int j) const {
    const int64_t base = VirtualPage(head, token) * 2 * kPageSize * kDim;
    const int offset = token % kPageSize;
    return base + (backend_.transposed_keys() ? j * kPageSize + offset : offset * kDim + j);
  }
  int64_t ValueIndex(int head, int token, int j) const {
    return (VirtualPage(head, token) * 2 + 1) * kPageSize * kDim + token % kPageSize * kDim + j;
  }

  Backend& backend_;
  std::mt19937 random_;
  std::vector<int32_t> ids_;
  std::vector<float> scores_;
  Buffer buffer_;
  KvPoolView pool_{};
  std::vector<int32_t> row_ = {0, 1, 0}, column_ = {2, 0, 1};
  std::vector<int> length_ = {0, 0, 0};
};

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
      std::vector<int32_t> retained(kRows);
      for (int chunk = 0; chunk < 5; ++chunk) {
        sequence.Append(kChunk, score);
        std::vector<int32_t> locked(kRows), kept(kRows);
        for (size_t row = 0; row < kRows; ++row) {
          locked[row] = chunk == 0 ? kSinks : retained[row] - kWindow;
          // None, some or all of the candidates; all only while the row's pages last.
          const int least = locked[row] + kWindow;
          const int most = std::min(retained[row] + kChunk, kMaxPages * kPageSize - kChunk);
          const int choices[] = {least, most, least + static_cast<int>(random() % 16)};
          kept[row] = std::clamp(choices[random() % 3], least, std::max(least, most));
        }
        std::vector<std::vector<Sequence::Token>> expected;
        for (int h = 0; h < kHeads; ++h) {
          const auto row = static_cast<size_t>(sequence.row(h));
          expected.push_back(KeepBest(sequence.ReadRow(h), locked[row], kept[row]));
        }
        sequence.Compact(locked, kept);
        for (int h = 0; h < kHeads; ++h) {
          ASSERT_EQ(sequence.ReadRow(h), expected[static_cast<size_t>(h)])
              << "seed " << seed << " chunk " << chunk << " head " << h;
        }
        retained = kept;
      }
    }
  }
}

TEST_P(CompressionTest, KeyDiffFollowsItsFormulaAndLeavesOthersAlone) {
  Sequence sequence(*backend_, dtype_, 7);
  sequence.Append(kChunk, RandomScore);
  std::vector<std::vector<Sequence::Token>> before;
  for (int h = 0; h < kHeads; ++h) before.push_back(sequence.ReadRow(h));
  sequence.Score(ScoreMethod::kKeyDiff, {kSinks, kSinks});
  for (int h = 0; h < kHeads; ++h) {
    const auto& row = before[static_cast<size_t>(h)];
    double mean[kDim] = {};
    for (int t = kSinks; t < kChunk; ++t) {
      double norm = 0;
      for (float x : row[static_cast<size_t>(t)].key) norm += double{x} * x;
      for (int j = 0; j < kDim; ++j)
        mean[j] += row[static_cast<size_t>(t)].key[static_cast<size_t>(j)] / std::sqrt(norm);
    }
    for (int t = 0; t < kChunk; ++t) {
      const float score = sequence.Read(h, t).score;
      if (t < kSinks || t >= kChunk - kWindow) {
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
  sequence.Score(ScoreMethod::kStreamingLlm, {kSinks, kSinks});
  sequence.Compact({kSinks, kSinks}, {32, 32});
  for (int i = kSinks; i < 32; ++i) {
    EXPECT_EQ(sequence.Read(0, i).key, before[static_cast<size_t>(i + kChunk - 32)].key) << i;
  }
}

TEST_P(CompressionTest, ScoresAreStoredBesideTheirTokens) {
  Sequence sequence(*backend_, dtype_, 11);
  sequence.Append(30, Equal);
  // Tokens 2..6 of the step become tokens 13..17 of row 0 and 20..24 of row 1.
  Buffer buffer = backend_->Allocate(7 * kHeads * sizeof(float));
  const TensorView scores = buffer.View(DType::kF32, {7, kHeads});
  for (int i = 0; i < 7 * kHeads; ++i) scores.as<float>()[i] = static_cast<float>(100 + i);
  sequence.AppendScores(scores, {13, 20}, 5);
  for (int h = 0; h < kHeads; ++h) {
    const int first = sequence.row(h) == 0 ? 13 : 20;
    for (int t = 0; t < 30; ++t) {
      const bool stored = t >= first && t < first + 5;
      EXPECT_EQ(sequence.Read(h, t).score,
                stored ? static_cast<float>(100 + (t - first + 2) * kHeads + h) : 1.0f);
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
}  // namespace tangram::ops
