#include "ops/philox.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>

// The host's side of what sampling draws from; tests/ops/cuda holds the device to it.

namespace tangram::ops {
namespace {

// The known answers that come with Random123 (its kat_vectors), by the authors of the generator.
TEST(Philox, GivesThePublishedAnswers) {
  struct Known {
    Philox4 counter;
    uint64_t key;
    std::array<uint32_t, 4> answer;
  };
  for (const Known& known : {
           Known{{0, 0, 0, 0}, 0, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
           Known{{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
                 0xffffffffffffffff,
                 {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
           Known{{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
                 0x299f31d0a4093822,
                 {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
       }) {
    const Philox4 got = Philox(known.counter, known.key);
    EXPECT_EQ((std::array<uint32_t, 4>{got.x, got.y, got.z, got.w}), known.answer);
  }
}

TEST(Philox, NumbersStayOffTheEndsOfTheInterval) {
  EXPECT_EQ(UnitInterval(0), 0x1p-24f);
  EXPECT_EQ(UnitInterval(~0u), 1 - 0x1p-24f);
  EXPECT_EQ(UnitInterval(0x80000000u), 0.5f + 0x1p-24f);
}

TEST(Philox, NoiseHasTheBoundThatItSays) {
  const float most = -std::log(-std::log(UnitInterval(~0u)));
  EXPECT_LT(most, kMaxGumbel);
  EXPECT_GT(most, kMaxGumbel - 1e-3f);
}

}  // namespace
}  // namespace tangram::ops
