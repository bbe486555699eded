// How large the pool of pages becomes.

#include "engine/kv_budget.h"

#include <gtest/gtest.h>

namespace tangram {
namespace {

TEST(PoolPagesTest, AShareOfWhatIsThereButNoMoreThanCanBeUsed) {
  // 4 layers of 2 heads in 2 groups of 4; a page of 16 tokens: 2 * 16 * 4 * 8 * 2 bytes.
  const KvLayout layout{DType::kF16, 16, 8, HeadGroupMap::Natural(4, 2, 4)};
  constexpr int64_t kPageBytes = 2048;
  ASSERT_EQ(layout.page_bytes(), static_cast<size_t>(kPageBytes));
  EngineConfig config;
  config.max_num_seqs = 3;
  config.memory_utilization = 0.5;
  const auto pages = [&](int64_t available) {
    return PoolPages(config, layout, 64, {.available = available});  // a sequence of 64: 8 pages
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
  config.num_pages_override = 5;  // blocks of two groups
  EXPECT_EQ(*pages(0), 10);
}

// A device's memory is shared with what other programs have taken of it already.
TEST(PoolPagesTest, ADevicesShareIsOfAllItsMemory) {
  const KvLayout layout{DType::kF16, 16, 8, HeadGroupMap::Natural(4, 2, 4)};
  constexpr int64_t kPageBytes = 2048;
  EngineConfig config;
  config.max_num_seqs = 3;
  const auto pages = [&](int64_t available, int64_t total) {
    return PoolPages(config, layout, 64,
                     {.available = available * kPageBytes, .total = total * kPageBytes});
  };
  EXPECT_EQ(*pages(30, 100), 20);
  EXPECT_EQ(*pages(1000, 1000), 24);
  EXPECT_FALSE(pages(10, 100));
  EXPECT_FALSE(pages(9, 100)) << "less than what is to be spared";
  EXPECT_EQ(*pages(40, 0), 20) << "half of what is there where nobody knows how much there is";
  config.memory_utilization = 0.5;
  EXPECT_EQ(*pages(70, 100), 20);
  config.kv_cache_memory_bytes = 9 * kPageBytes;
  EXPECT_EQ(*pages(0, 100), 9);
}

TEST(KvDTypeTest, NamesOfTypesThatTheBackendHas) {
  const ops::Limits limits{.kv_dtypes = {DType::kBF16, DType::kF16}};
  EXPECT_EQ(*KvDType("auto", limits), DType::kBF16);
  EXPECT_EQ(*KvDType("f16", limits), DType::kF16);
  EXPECT_EQ(*KvDType("float16", limits), DType::kF16);
  EXPECT_EQ(*KvDType("bfloat16", limits), DType::kBF16);
  const auto refused = KvDType("float32", limits);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().param, "kv_cache_dtype");
  EXPECT_NE(refused.error().message.find("auto, bf16, f16"), std::string::npos)
      << refused.error().message;
}

TEST(CheckLimitsTest, WhatTheBackendsKernelsCannotRunIsRefused) {
  const ops::Limits limits{.head_dims = {64, 128}, .page_sizes = {16}, .max_chunk = 1024};
  EngineConfig config;
  config.compression.ratio = 0.5f;
  config.compression.chunk = 1024;
  KvLayout layout{DType::kF16, 16, 128, HeadGroupMap::Natural(4, 2, 4)};
  EXPECT_TRUE(CheckLimits(config, layout, limits));
  config.compression.chunk = 2048;
  EXPECT_EQ(CheckLimits(config, layout, limits).error().param, "compression_chunk_size");
  EXPECT_TRUE(CheckLimits(config, layout, {}));
  config.compression.ratio = 1;
  EXPECT_TRUE(CheckLimits(config, layout, limits)) << "nothing is compressed";
  layout.page_size = 32;
  EXPECT_EQ(CheckLimits(config, layout, limits).error().param, "block_size");
  layout.page_size = 16;
  layout.head_dim = 80;
  EXPECT_EQ(CheckLimits(config, layout, limits).error().kind, ErrorKind::kUnsupported);
}

}  // namespace
}  // namespace tangram
