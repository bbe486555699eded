#include "paging/page_pool.h"

#include <gtest/gtest.h>

namespace tangram {
namespace {

TEST(PagePool, PagesPassFromHoldersToKeepersToFree) {
  PagePool pool(2);
  const int32_t page = pool.Take();
  EXPECT_EQ(pool.num_held(), 1);
  pool.Keep(page);
  EXPECT_EQ(pool.num_evictable(), 0);
  pool.Release(page);
  EXPECT_EQ(pool.num_evictable(), 1);
  pool.Hold(page);
  EXPECT_EQ(pool.num_evictable(), 0);
  pool.Drop(page);
  EXPECT_EQ(pool.num_free(), 1);
  pool.Release(page);
  EXPECT_EQ(pool.num_free(), 2);
  const std::vector<int32_t> none(2);
  pool.CheckInvariants(none, none);
}

TEST(PagePoolDeathTest, NoDoubleFree) {
  PagePool pool(2);
  const int32_t page = pool.Take();
  pool.Release(page);
  EXPECT_DEATH(pool.Release(page), "is not held");
  EXPECT_DEATH(pool.Drop(page), "is not kept");
  EXPECT_DEATH(pool.Hold(page), "is free");
  pool.Take();
  pool.Take();
  EXPECT_DEATH(pool.Take(), "no free page");
}

}  // namespace
}  // namespace tangram
