#include "paging/prefix_cache.h"

#include <gtest/gtest.h>

namespace tangram {
namespace {

constexpr int kPageSize = 4, kGroups = 2, kChunk = 8;

class PrefixCacheTest : public testing::Test {
 protected:
  // Gives slot 0 pages for so many tokens, in place of what it held.
  void Fill(int num_tokens) {
    DropSequenceRefs();
    for (int i = 0; i < (num_tokens + kPageSize - 1) / kPageSize; ++i) {
      for (int group = 0; group < kGroups; ++group) {
        table_.group(0, group)[i] = pool_.Take();
        held_.push_back(table_.group(0, group)[i]);
      }
    }
  }
  void DropSequenceRefs() {
    pool_.DropSequenceRefs(held_);
    held_.clear();
  }
  // A finished sequence's state.
  void Leave(const std::vector<int32_t>& tokens, std::string_view salt = {}) {
    Fill(int(tokens.size()));
    cache_.Insert(Kind(salt), tokens, {&table_, 0, 0}, PrefixCache::Extent::kAll);
    DropSequenceRefs();
    Check();
  }
  PrefixCache::Namespace Kind(std::string_view salt) const { return {salt, 0, &full_}; }
  PrefixCache::Match Find(const std::vector<int32_t>& tokens, std::string_view salt = {}) {
    return cache_.Find(Kind(salt), tokens, kChunk);
  }
  int Found(const std::vector<int32_t>& tokens, std::string_view salt = {}) {
    return Find(tokens, salt).num_tokens;
  }
  void Check() {
    std::vector<int32_t> sequence_refs(pool_.size()), cache_refs(pool_.size());
    for (const int32_t page : held_) ++sequence_refs[page];
    cache_.CheckInvariants(cache_refs);
    pool_.CheckInvariants(sequence_refs, cache_refs);
  }

  PagePool pool_{40};
  PageTable table_{1, kGroups, 10};
  RetentionTable full_ = RetentionTable::Full(kGroups, kChunk);
  PrefixCache cache_{kPageSize, kGroups, kChunk, /*max_history=*/80, &pool_};
  std::vector<int32_t> held_;
};

TEST_F(PrefixCacheTest, FindsTheLongestCommonPrefixAtAnyToken) {
  Leave({1, 2, 3, 4, 5, 6, 7, 8, 9});
  EXPECT_EQ(Found({1, 2, 3, 4, 5, 6, 7, 8, 9, 10}), 9);
  EXPECT_EQ(Found({1, 2, 3, 4, 5, 6, 7, 0}), 7);
  EXPECT_EQ(Found({1, 2, 3}), 3);
  EXPECT_EQ(Found({2, 2, 3}), 0);
  Leave({1, 2, 3, 4, 5, 6, 0, 0});
  EXPECT_EQ(Found({1, 2, 3, 4, 5, 6, 0, 9}), 7);
  EXPECT_EQ(Found({1, 2, 3, 4, 5, 6, 8, 9}), 6);
  EXPECT_EQ(Found({1, 2, 3, 4, 5, 6, 7, 9}), 7);
}

TEST_F(PrefixCacheTest, KeepsSaltsApart) {
  Leave({1, 2, 3, 4}, "salt");
  EXPECT_EQ(Found({1, 2, 3, 4}), 0);
  EXPECT_EQ(Found({1, 2, 3, 4}, "salt"), 4);
}

TEST_F(PrefixCacheTest, CopiesWhatOthersMayStillRead) {
  Leave({1, 2, 3, 4, 5, 6});
  PrefixCache::Match match = Find({1, 2, 3, 4, 5, 6, 7});
  EXPECT_EQ(match.shared.size(), 2u);  // goes on in the page that is not full
  EXPECT_TRUE(match.copied.empty());
  match = Find({1, 2, 3, 4, 5, 0});
  EXPECT_EQ(match.shared.size(), 1u);
  ASSERT_FALSE(match.copied.empty());  // slot 1 of the page has another's 6
  pool_.AddSequenceRefs(match.copied);
  match = Find({1, 2, 3, 4, 5, 6, 7});
  EXPECT_EQ(match.shared.size(), 1u);  // someone else goes on in that page already
  EXPECT_FALSE(match.copied.empty());
}

TEST_F(PrefixCacheTest, StoresACommonPrefixOnce) {
  Leave({1, 2, 3, 4, 5, 6, 7, 8});
  Leave({1, 2, 3, 4, 5, 6, 7, 8, 9});
  EXPECT_EQ(pool_.num_evictable(), 3 * kGroups);
  Leave({1, 2, 3, 4, 5, 6, 7, 8, 9, 10});  // lengthens the last block
  EXPECT_EQ(pool_.num_evictable(), 3 * kGroups);
  EXPECT_EQ(cache_.num_blocks(), 4);  // and the top
}

TEST_F(PrefixCacheTest, EvictsTheOldestFromItsEnd) {
  Leave({1, 2, 3, 4, 5, 6, 7, 8});
  Leave({9, 9, 9, 9, 8, 8, 8, 8});
  EXPECT_EQ(Found({1, 2, 3, 4, 5, 6, 7, 8}), 8);  // now the other is older
  cache_.Evict(pool_.num_free() + 1);
  Check();
  EXPECT_EQ(Found({9, 9, 9, 9, 8, 8, 8, 8}), 4);
  EXPECT_EQ(Found({1, 2, 3, 4, 5, 6, 7, 8}), 8);
  cache_.Evict(pool_.size());
  EXPECT_EQ(cache_.num_blocks(), 0);
  Check();
}

TEST_F(PrefixCacheTest, SaltsOfOneHashDoNotShare) {
  // What anybody can make who knows a hash of 64 bits: libstdc++'s std::hash is the same for both.
  const std::string_view one = "sq84mvsd6KyhtVwv";
  const std::string_view two = "sq\xf5M\b\\\x1b\xf3\x36K6\x82\x0f<\x1f\x05";
  EXPECT_EQ(std::hash<std::string_view>{}(one), std::hash<std::string_view>{}(two));
  Leave({1, 2, 3, 4, 5}, one);
  EXPECT_EQ(Found({1, 2, 3, 4, 5}, one), 5);
  EXPECT_EQ(Found({1, 2, 3, 4, 5}, two), 0);
  EXPECT_EQ(Found({1, 2, 3, 4, 5}), 0);
}

TEST_F(PrefixCacheTest, CountsEndsThatAreKeptAndThoseThatWent) {
  EXPECT_EQ(cache_.num_ends(), 0);
  Leave({1, 2, 3, 4, 5, 6, 7, 8});
  Leave({1, 2, 3, 4, 5, 6, 7, 8, 9});  // goes on, and has no end of its own
  EXPECT_EQ(cache_.num_ends(), 1);
  Leave({1, 2, 3, 4, 6, 6});
  Leave({9, 9, 9, 9}, /*salt=*/"other");
  EXPECT_EQ(cache_.num_ends(), 3);
  EXPECT_EQ(Found({1, 2, 3, 4, 6, 6}), 6);  // the longest is the oldest now
  const auto evict_one = [&] { cache_.Evict(pool_.num_free() + kGroups); };
  evict_one();
  EXPECT_EQ(cache_.num_ends(), 3);
  EXPECT_EQ(cache_.ends_evicted(), 0u) << "it is only shorter";
  evict_one();
  EXPECT_EQ(cache_.num_ends(), 2);
  EXPECT_EQ(cache_.ends_evicted(), 1u);
  cache_.Clear();
  EXPECT_EQ(cache_.num_ends(), 0);
  EXPECT_EQ(cache_.ends_evicted(), 1u);
  EXPECT_EQ(cache_.ends_cleared(), 2u);
}

TEST_F(PrefixCacheTest, WhatIsBehindACommonBeginningStaysAsOldAsItWas) {
  const std::vector<int32_t> a = {1, 2, 3, 4, 5, 6, 7, 8}, b = {9, 9, 9, 9};
  Leave(a);
  Leave(b);
  EXPECT_EQ(Found({1, 2, 3, 4, 0}), 4);
  EXPECT_EQ(cache_.num_blocks(), 4);
  const auto evict_one = [&] { cache_.Evict(pool_.num_free() + kGroups); };
  evict_one();
  Check();
  EXPECT_EQ(Found(b), 4);
  EXPECT_EQ(Found(a), 4);
  evict_one();
  EXPECT_EQ(Found(b), 0);
  EXPECT_EQ(Found(a), 4);
  Check();
}

TEST_F(PrefixCacheTest, RemovesAllThatBeginsWithWhatIsWrong) {
  Leave({1, 2, 3, 4, 5, 6, 7, 8, 9});
  Leave({1, 2, 3, 4, 8, 8, 8, 8});
  Leave({1, 2, 3, 3}, /*salt=*/"other");
  Leave({1, 2, 0, 0});
  cache_.RemoveAll(Kind(""), std::vector<int32_t>{1, 2, 3, 4, 5, 0});
  Check();
  EXPECT_EQ(Found({1, 2, 3, 4, 5, 6}), 2);  // of the other's block
  EXPECT_EQ(Found({1, 2, 3, 4, 8, 8}), 2);
  EXPECT_EQ(Found({1, 2, 3, 3}, "other"), 4);
  EXPECT_EQ(Found({1, 2, 0, 0}), 4);
  EXPECT_EQ(pool_.num_evictable(), 2 * kGroups);
}

TEST_F(PrefixCacheTest, ASequenceThatRunsOnLeavesWholePagesAndKeepsThemInUse) {
  Fill(6);
  cache_.Insert(Kind(""), std::vector<int32_t>{1, 2, 3, 4, 5, 6}, {&table_, 0, 0},
                PrefixCache::Extent::kWholePages);
  Check();
  EXPECT_EQ(Found({1, 2, 3, 4, 5, 6}), 4);
  EXPECT_EQ(pool_.num_evictable(), 0);
  DropSequenceRefs();
  EXPECT_EQ(pool_.num_evictable(), kGroups);
}

TEST_F(PrefixCacheTest, WhatSomebodyWaitsForIsEvictedLastTheEndOfTheQueueFirst) {
  const std::vector<int32_t> a = {1, 1, 1, 1}, b = {2, 2, 2, 2}, c = {3, 3, 3, 3};
  Leave(a);
  Leave(b);
  Leave(c);
  cache_.PinForQueued(Kind(""), a, kChunk, /*rank=*/1);
  cache_.PinForQueued(Kind(""), b, kChunk, /*rank=*/2);
  const auto evict_one = [&] { cache_.Evict(pool_.num_free() + kGroups); };
  evict_one();
  EXPECT_EQ(Found(c), 0);  // though used last
  evict_one();
  EXPECT_EQ(Found(b), 0);
  EXPECT_EQ(Found(a), 4);  // nobody waits any longer
  Leave(c);
  evict_one();
  EXPECT_EQ(Found(a), 0);
  EXPECT_EQ(Found(c), 4);
  Check();
}

TEST_F(PrefixCacheTest, WhatSequencesHoldIsPassedOverHoweverOld) {
  Leave({1, 2, 3, 4});
  Leave({5, 6, 7, 8});
  const auto pages = Find({1, 2, 3, 4}).shared[0];
  held_.assign(pages.begin(), pages.end());
  pool_.AddSequenceRefs(held_);
  cache_.PinForQueued(Kind(""), std::vector<int32_t>{5, 6, 7, 8}, kChunk, 1);
  cache_.Evict(pool_.num_free() + kGroups);
  EXPECT_EQ(Found({1, 2, 3, 4}), 4);
  EXPECT_EQ(Found({5, 6, 7, 8}), 0);
  Check();
}

TEST_F(PrefixCacheTest, ARetiredStateGoesFirstUnlessOthersGoOnFromIt) {
  Leave({1, 1, 1, 1});
  Leave({2, 2, 2, 2, 3, 3});
  Leave({2, 2, 2, 2, 4, 4});
  cache_.MarkEvictFirst(Kind(""), std::vector<int32_t>{2, 2, 2, 2, 3, 3}, 0);
  Check();
  cache_.Evict(pool_.num_free() + kGroups);
  EXPECT_EQ(Found({2, 2, 2, 2, 3, 3}), 4);  // the part that is the other's too stays
  EXPECT_EQ(Found({2, 2, 2, 2, 4, 4}), 6);
  cache_.MarkEvictFirst(Kind(""), std::vector<int32_t>{2, 2, 2, 2}, 0);
  cache_.Evict(pool_.num_free() + kGroups);
  EXPECT_EQ(Found({1, 1, 1, 1}), 0);
  EXPECT_EQ(Found({2, 2, 2, 2, 4, 4}), 6);
  Check();
}

}  // namespace
}  // namespace tangram
