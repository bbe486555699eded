#include "paging/token_history.h"

#include <gtest/gtest.h>

namespace tangram {
namespace {

using Tokens = std::vector<int32_t>;

TEST(TokenHistory, FindsTheLastWholeChunkInCommon) {
  TokenHistory history(2, 100);
  EXPECT_EQ(history.Find("", Tokens{1, 2}), nullptr);
  EXPECT_EQ(history.Add("", Tokens{1, 2, 3, 4, 5})->depth, 2);
  EXPECT_EQ(history.Find("", Tokens{1, 2, 3, 4, 5, 6})->depth, 2);
  EXPECT_EQ(history.Find("", Tokens{1, 2, 3, 9})->depth, 1);
  EXPECT_EQ(history.Find("", Tokens{1})->depth, 0);
  EXPECT_EQ(history.Find("other", Tokens{1, 2}), nullptr);  // another salt
  EXPECT_EQ(history.Add("", Tokens{1, 2, 3, 4}), history.Find("", Tokens{1, 2, 3, 4}));
  EXPECT_EQ(history.num_chunks(), 3);
  history.CheckInvariants();
}

TEST(TokenHistory, ForgetsTheOldestFromTheEndButNeverAState) {
  TokenHistory history(1, 4);
  HistoryNode* kept = history.Add("", Tokens{1});
  history.AddState(*kept, 5);
  history.Add("", Tokens{2, 3});
  history.Add("", Tokens{4, 5, 6});
  history.Find("", Tokens{2, 3});
  history.Add("", Tokens{7});  // over its bound by three: forgets 6, 5 and 4
  history.CheckInvariants();
  EXPECT_EQ(history.Find("", Tokens{4, 5, 6})->depth, 0);
  EXPECT_EQ(history.Find("", Tokens{2, 3})->depth, 2);
  EXPECT_EQ(history.Find("", Tokens{1}), kept);
  history.RemoveState(*kept, 5);
  for (int i = 10; i < 20; ++i) history.Add("", Tokens{i});
  history.CheckInvariants();
  EXPECT_EQ(history.Find("", Tokens{1})->depth, 0);
  EXPECT_LE(history.num_chunks(), 6);
}

}  // namespace
}  // namespace tangram
