// How large the pool of pages becomes.

#include "engine/kv_budget.h"

#include <gtest/gtest.h>

namespace tangram {
namespace {

TEST(PoolPagesTest, AShareOfWhatIsThereButNoMoreThanCanBeUsed) {
  // 4 layers of 2 heads in 2 rows of 4; a page of 16 tokens: 2 * 16 * 4 * 8 * 2 bytes.
  const KvLayout layout{DType::kF16, 16, 8, HeadGroupMap::Natural(4, 2, 4)};
  constexpr int64_t kPageBytes = 2048;
  ASSERT_EQ(layout.page_bytes(), static_cast<size_t>(kPageBytes));
  EngineConfig config;
  config.max_num_seqs = 3;
  config.memory_utilization = 0.5;
  const auto pages = [&](int64_t available) {
    return PoolPages(config, layout, 64, available);  // a sequence of 64: 8 pages
  };
  EXPECT_EQ(*pages(40 * kPageBytes), 20);
  EXPECT_EQ(*pages(1000 * kPageBytes), 24);
  const auto too_few = pages(14 * kPageBytes);
  ASSERT_FALSE(too_few);
  EXPECT_EQ(too_few.error().kind, ErrorKind::kOutOfMemory);
  EXPECT_NE(too_few.error().message.find("--max-model-len 48"), std::string::npos)
      << too_few.error().message;
  config.kv_cache_memory_bytes = 30 * kPageBytes;
  EXPECT_EQ(*pages(0), 30);
  config.num_pages_override = 5;  // blocks of two rows
  EXPECT_EQ(*pages(0), 10);
}

}  // namespace
}  // namespace tangram
