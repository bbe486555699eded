// Sequences that share pages of a chunk, and went apart in it, are compressed as if each had its
// own.

#include "kvcache/compressor.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <vector>

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
        kv_(*KvStorage::Create(
            *backend_, {DType::kF32, kPageSize, kDim, HeadGroupMap::Natural(1, 1, 1)}, kPages)),
        compressor_(*Compressor::Create(*backend_, kv_, Config(scorer), {}, {16, 2, 1})),
        ids_{0, 1, 2, 3, 4, shared ? 1 : 5, shared ? 2 : 6, 7} {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    const auto fill = [&](int first, int second) {
      for (int i = 0; i < 2 * kPageSize * kDim; ++i) {
        const float value = normal(random);
        for (const int page : {first, second}) {
          ops::StoreKv(kv_.pool(), int64_t{page} * 2 * kPageSize * kDim + i, value);
        }
      }
    };
    fill(0, 4);
    fill(1, 5);
    fill(2, 6);
    fill(3, 3);
    fill(7, 7);
  }

  // The keys that each keeps, side by side.
  std::vector<float> Compress() {
    const int32_t locked = 0, length = kChunk, kept = kKept;
    const ops::BoundarySpan boundaries[] = {{0, kChunk, &locked, &length, &kept},
                                            {1, kChunk, &locked, &length, &kept}};
    ops::AppendParams next{};
    next.num_q_heads = next.num_kv_heads = 1;
    next.pool = kv_.pool();
    next.pages = {ids_.data(), 1, kPages / 2};
    next.heads = kv_.heads(0);
    if (compressor_.config().needs_reconstruction_pass()) {
      for (int slot = 0; slot < 2; ++slot) {  // scores in opposite orders
        for (int i = 0; i < kChunk; ++i) {
          compressor_.ChunkScores(0, slot)[i] = static_cast<float>(slot == 0 ? i : -i);
        }
      }
    }
    compressor_.BeforeAppend(0, next, boundaries);
    std::vector<float> keys;
    for (const int page : {ids_[0], ids_[4]}) {
      for (int i = 0; i < kKept * kDim; ++i) {
        keys.push_back(ops::LoadKv(kv_.pool(), int64_t{page} * 2 * kPageSize * kDim + i));
      }
    }
    return keys;
  }

 private:
  static CompressionConfig Config(Scorer scorer) {
    CompressionConfig c;
    c.ratio = 0.5f;
    c.chunk = kChunk;
    c.window = kWindow;
    c.sinks = 0;
    c.scorer = scorer;
    return c;
  }

  std::unique_ptr<ops::Backend> backend_;
  KvStorage kv_;
  Compressor compressor_;
  std::vector<int32_t> ids_;  // [2 slots, 4]
};

TEST(CompressorTest, SequencesThatSharePagesScoreThemEachForItself) {
  for (const Scorer scorer : {Scorer::kKeyDiff, Scorer::kReconstruction}) {
    int apart = 0;
    for (uint32_t seed = 0; seed < 20; ++seed) {
      const auto expected = TwoSequences(scorer, false, seed).Compress();
      EXPECT_EQ(TwoSequences(scorer, true, seed).Compress(), expected) << "seed " << seed;
      const auto middle = expected.begin() + static_cast<ptrdiff_t>(expected.size() / 2);
      // Of the two candidates that stay; the window is each one's own.
      apart += std::equal(expected.begin(), expected.begin() + 2 * kDim, middle) ? 0 : 1;
    }
    EXPECT_GT(apart, 0) << "both keep the same tokens: nothing is tested";
  }
}

}  // namespace
}  // namespace tangram
