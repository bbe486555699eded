#include "paging/page_pool.h"

#include <gtest/gtest.h>

#include <vector>

namespace tangram {
namespace {

using Pages = std::vector<int32_t>;

TEST(PagePool, PagesPassFromHoldersToKeepersToFree) {
  PagePool pool(3);
  Pages pages(2);
  pool.Take(pages);
  EXPECT_EQ(pool.num_in_sequences(), 2);
  pool.AddCacheRefs(pages);
  EXPECT_EQ(pool.num_evictable(), 0);
  pool.DropSequenceRefs(pages);
  EXPECT_EQ(pool.num_evictable(), 2);
  pool.AddSequenceRefs(Pages{pages[0]});
  EXPECT_EQ(pool.num_evictable(), 1);
  pool.DropCacheRefs(pages);
  EXPECT_EQ(pool.num_free(), 2);
  pool.DropSequenceRefs(Pages{pages[0]});
  EXPECT_EQ(pool.num_free(), 3);
  const Pages none(3);
  pool.CheckInvariants(none, none);
}

TEST(PagePoolDeathTest, NoDoubleFree) {
  PagePool pool(2);
  const Pages page = {pool.Take()};
  pool.DropSequenceRefs(page);
  EXPECT_DEATH(pool.DropSequenceRefs(page), "is not held");
  EXPECT_DEATH(pool.DropCacheRefs(page), "is not kept");
  EXPECT_DEATH(pool.AddSequenceRefs(page), "is free");
  pool.Take();
  pool.Take();
  EXPECT_DEATH(pool.Take(), "0 free pages");
}

}  // namespace
}  // namespace tangram
