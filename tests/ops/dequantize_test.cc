#include "ops/reference/dequantize.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "ops/dequantize_golden.h"
#include "tensor/float16.h"

namespace tangram {
namespace {

TEST(DequantizeTest, EqualsTheGgufPackage) {
  for (const DequantizeGolden& golden : kDequantizeGolden) {
    ASSERT_EQ(static_cast<int64_t>(golden.block.size()), BlockBytes(golden.type));
    std::vector<float> out(BlockSize(golden.type));
    ops::Dequantize(golden.type, golden.block.data(), BlockSize(golden.type), out.data());
    for (size_t i = 0; i < golden.indices.size(); ++i) {
      EXPECT_NEAR(out[golden.indices[i]], golden.values[i],
                  1e-6 * std::abs(golden.values[i]) + 1e-6)
          << DTypeName(golden.type) << " element " << golden.indices[i];
    }
  }
}

TEST(Float16Test, EveryHalfSurvivesTheRoundTrip) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const auto half = static_cast<uint16_t>(bits);
    const float value = HalfToFloat(half);
    if (std::isnan(value)) {
      EXPECT_TRUE(std::isnan(HalfToFloat(FloatToHalf(value))));
    } else {
      EXPECT_EQ(FloatToHalf(value), half);
    }
  }
}

TEST(Float16Test, RoundsToNearestTiesToEven) {
  EXPECT_EQ(HalfToFloat(FloatToHalf(1.0f + 0x1p-11f)), 1.0f);
  EXPECT_EQ(HalfToFloat(FloatToHalf(1.0f + 3 * 0x1p-11f)), 1.0f + 0x1p-9f);
  EXPECT_EQ(HalfToFloat(FloatToHalf(65519.0f)), 65504.0f);
  EXPECT_TRUE(std::isinf(HalfToFloat(FloatToHalf(65520.0f))));
  EXPECT_EQ(HalfToFloat(FloatToHalf(0x1p-25f)), 0.0f);
  EXPECT_EQ(HalfToFloat(FloatToHalf(3 * 0x1p-26f)), 0x1p-24f);
  EXPECT_EQ(BFloatToFloat(FloatToBFloat(1.0f + 0x1p-8f)), 1.0f);
  EXPECT_EQ(BFloatToFloat(FloatToBFloat(1.0f + 3 * 0x1p-8f)), 1.0f + 0x1p-6f);
  EXPECT_TRUE(std::isnan(BFloatToFloat(FloatToBFloat(std::numeric_limits<float>::quiet_NaN()))));
}

}  // namespace
}  // namespace tangram
