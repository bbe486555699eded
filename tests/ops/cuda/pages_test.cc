#include "ops/cuda/step/pages.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <vector>

#include "ops/cuda/device_array.h"

namespace tangram::ops::cuda {
namespace {

// Pages of less than a block's share, of several, and of the scores beside a column of them.
TEST(CopyPages, CopiesThesePagesAndNoOthers) {
  for (const int page_bytes : {64, 4096, 32768, 81920 + 16}) {
    const int num_pages = 40;
    std::mt19937 random(1);
    std::vector<uint8_t> expected(size_t{1} * num_pages * page_bytes);
    for (uint8_t& byte : expected) byte = static_cast<uint8_t>(random());
    const DeviceArray<uint8_t> pool(expected);
    const std::vector<int32_t> from = {39, 0, 17, 17}, to = {1, 38, 3, 20};
    const DeviceArray<int32_t> device_from(from), device_to(to);
    RunCopyPages({pool.data(), page_bytes, device_from.data(), device_to.data(), 4}, nullptr);
    for (size_t i = 0; i < from.size(); ++i) {
      std::copy_n(expected.begin() + from[i] * page_bytes, page_bytes,
                  expected.begin() + to[i] * page_bytes);
    }
    EXPECT_TRUE(pool.Download() == expected) << page_bytes << " bytes";
  }
}

}  // namespace
}  // namespace tangram::ops::cuda
