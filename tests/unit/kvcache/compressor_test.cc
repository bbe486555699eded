// Sequences that share pages of a chunk, and went apart in it, are compressed as if each had its
// own.

#include "kvcache/compressor.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <vector>

#include "kvcache/step_builder.h"
#include "ops/kv_element.h"

namespace tangram {
namespace {

constexpr int kPageSize = 4, kChunk = 16, kWindow = 2, kDim = 8, kPages = 8, kKept = 4;

// One layer of one head, and two sequences of a chunk each.
class TwoSequences {
 public:
  // Pages 1 and 2 of four hold the same tokens; `shared`: they are the same pages.
  TwoSequences(Scorer scorer, bool shared, uint32_t seed)
      : backend_(ops::CreateReferenceBackend()),
        kv_(*KvStorage::Create(*backend_,
                               {DType::kF32, kPageSize, kDim, Heads(), /*with_scores=*/true},
                               {kPages, 2, 2 * kChunk}, tables_)),
        compressor_(*Compressor::Create(*backend_, Heads(), kDim, Config(scorer), {}, {16, 2, 1})),
        ids_{0, 1, 2, 3, 4, shared ? 1 : 5, shared ? 2 : 6, 7} {
    compressor_.Attach(kv_);
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    const auto fill = [&](int first, int second) {
      for (int i = 0; i < 2 * kPageSize * kDim; ++i) {
        const float value = normal(random);
        for (const int page : {first, second}) {
          ops::StoreKv(kv_.view(), int64_t{page} * 2 * kPageSize * kDim + i, value);
        }
      }
    };
    fill(0, 4);
    fill(1, 5);
    fill(2, 6);
    fill(3, 3);
    fill(7, 7);
  }

  // The keys that each keeps, side by side. `inside`: the step comes to the boundary, instead of
  // beginning there.
  std::vector<float> Compress(bool inside) {
    if (compressor_.config().needs_reconstruction_pass()) {
      for (int slot = 0; slot < 2; ++slot) {  // scores in opposite orders
        for (int i = 0; i < kChunk; ++i) {
          compressor_.ChunkScores(0, slot)[i] = static_cast<float>(slot == 0 ? i : -i);
        }
      }
    }
    const ops::Step& step = Begin(inside);
    compressor_.BeforeStep(step);
    ops::AppendParams next{};
    next.num_q_heads = 1;
    for (next.at = {&step, 0, 0}; next.at.round < step.num_rounds(); ++next.at.round) {
      compressor_.BeforeAppend(next);
    }
    std::vector<float> keys;
    for (const int page : {ids_[0], ids_[4]}) {
      for (int i = 0; i < kKept * kDim; ++i) {
        keys.push_back(ops::LoadKv(kv_.view(), int64_t{page} * 2 * kPageSize * kDim + i));
      }
    }
    return keys;
  }

 private:
  static HeadGroupMap Heads() { return HeadGroupMap::Natural(1, 1, 1); }
  const ops::Step& Begin(bool inside) {
    const std::vector<int32_t> tokens(inside ? 3 : 1);
    builder_.Clear();
    for (int slot = 0; slot < 2; ++slot) {
      builder_.Add({.tokens = tokens,
                    .slot = slot,
                    .retention = 1,
                    .num_computed = inside ? kChunk - 2 : kChunk},
                   tables_[1]);
    }
    ops::StepInput& input = builder_.Finish();
    for (int i = 0; i < kPages; ++i) {
      const int64_t place = kv_.view().Place(i / 4, 0) + i % 4;
      input.page_writes.push_back({static_cast<int32_t>(place), ids_[static_cast<size_t>(i)]});
    }
    return backend_->Begin(input, kv_.view(), kv_.scores());
  }
  static CompressionConfig Config(Scorer scorer) {
    CompressionConfig c;
    c.ratio = 0.5f;
    c.chunk = kChunk;
    c.window = kWindow;
    c.sinks = 0;
    c.scorer = scorer;
    return c;
  }

  const std::vector<RetentionTable> tables_ = {RetentionTable::Full(1, kChunk),
                                               RetentionTable(1, kChunk, 50, {kKept})};
  std::unique_ptr<ops::Backend> backend_;
  KvStorage kv_;
  Compressor compressor_;
  StepBuilder builder_;
  std::vector<int32_t> ids_;  // [2 slots, 4]
};

TEST(CompressorTest, SequencesThatSharePagesScoreThemEachForItself) {
  for (const Scorer scorer : {Scorer::kKeyDiff, Scorer::kReconstruction}) {
    int apart = 0;
    for (uint32_t seed = 0; seed < 20; ++seed) {
      for (const bool inside : {false, true}) {
        const auto expected = TwoSequences(scorer, false, seed).Compress(inside);
        EXPECT_EQ(TwoSequences(scorer, true, seed).Compress(inside), expected) << "seed " << seed;
        const auto middle = expected.begin() + static_cast<ptrdiff_t>(expected.size() / 2);
        // Of the two candidates that stay; the window is each one's own.
        apart += std::equal(expected.begin(), expected.begin() + 2 * kDim, middle) ? 0 : 1;
      }
    }
    EXPECT_GT(apart, 0) << "both keep the same tokens: nothing is tested";
  }
}

}  // namespace
}  // namespace tangram
