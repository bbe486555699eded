// GGUF's block types as the quantised product reads them from packed tiles. Included once for each
// target.
//
// Each format gives, for 32 values along K of kLanes outputs: 16-bit pairs of neighbours (in an
// order that masks and shifts of the stored words yield; x is permuted to suit, see PermuteInput),
// then scales and minimum: w = scale * q + minimum.
#if defined(TANGRAM_OPS_CPU_QUANTIZED_FORMATS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TANGRAM_OPS_CPU_QUANTIZED_FORMATS_INL_H_
#undef TANGRAM_OPS_CPU_QUANTIZED_FORMATS_INL_H_
#else
#define TANGRAM_OPS_CPU_QUANTIZED_FORMATS_INL_H_
#endif

#include "ops/cpu/packed_weight.h"
#include "ops/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace tangram::ops {
namespace HWY_NAMESPACE {

// Word `i` of a packed block, for the lanes from `block`'s on.
HWY_INLINE VI32 LoadWord(const uint8_t* block, int i) {
  return hn::LoadU(DI32(), reinterpret_cast<const int32_t*>(block) + i * kTileRows);
}

// The 16-bit values behind `words` words. Lane offsets of words are twice those of halves, hence
// `lane`.
HWY_INLINE VF LoadHalf(const uint8_t* tile_block, int words, int i, int lane) {
  const uint8_t* halves = tile_block + words * kTileRows * 4;
  return LoadAsFloat(reinterpret_cast<const hwy::float16_t*>(halves) + i * kTileRows + lane);
}

// Bits [4 * t, 4 * t + 4) of both halves of each word.
template <int kShift>
HWY_INLINE VI32 Nibbles(VI32 words) {
  return hn::And(hn::ShiftRight<kShift>(words), hn::Set(DI32(), 0x000F000F));
}

HWY_INLINE VI16 AsPairs(VI32 v) { return hn::BitCast(DI16(), v); }

// Q4_0 and Q4_1: low nibbles are values 0..15, high ones 16..31.
template <DType kType>
struct Nibble32Format {
  static constexpr DType kStored = kType;
  static constexpr int kSteps = 4, kPairsPerStep = 4, kScales = 1;
  static constexpr bool kHasMinimum = kType == DType::kQ4_1;
  static constexpr int PairIndex(int step, int t) { return 2 * step + t / 2 + t % 2 * 8; }

  static HWY_INLINE VI16 Centre(VI32 nibbles) {
    if constexpr (kHasMinimum) return AsPairs(nibbles);
    return hn::Sub(AsPairs(nibbles), hn::Set(DI16(), int16_t{8}));
  }
  static HWY_INLINE void Pairs(const uint8_t* tile, int b, int lane, int step, VI16* pairs) {
    const VI32 words = LoadWord(tile + b * TileBlockBytes(kType) + lane * 4, step);
    pairs[0] = Centre(Nibbles<0>(words));
    pairs[1] = Centre(Nibbles<4>(words));
    pairs[2] = Centre(Nibbles<8>(words));
    pairs[3] = Centre(Nibbles<12>(words));
  }
  static HWY_INLINE void Scales(const uint8_t* tile, int b, int lane, VF* scales, VF* minimum) {
    const uint8_t* block = tile + b * TileBlockBytes(kType);
    scales[0] = LoadHalf(block, 4, 0, lane);
    if constexpr (kHasMinimum) *minimum = LoadHalf(block, 4, 1, lane);
  }
};

struct Q8_0Format {
  static constexpr DType kStored = DType::kQ8_0;
  static constexpr int kSteps = 8, kPairsPerStep = 2, kScales = 1;
  static constexpr bool kHasMinimum = false;
  static constexpr int PairIndex(int step, int t) { return 2 * step + t; }

  static HWY_INLINE void Pairs(const uint8_t* tile, int b, int lane, int step, VI16* pairs) {
    const VI16 bytes = AsPairs(LoadWord(tile + b * TileBlockBytes(kStored) + lane * 4, step));
    pairs[0] = hn::ShiftRight<8>(hn::ShiftLeft<8>(bytes));
    pairs[1] = hn::ShiftRight<8>(bytes);
  }
  static HWY_INLINE void Scales(const uint8_t* tile, int b, int lane, VF* scales, VF*) {
    scales[0] = LoadHalf(tile + b * TileBlockBytes(kStored), 8, 0, lane);
  }
};

// Q4_K and Q5_K: eight sub-blocks with 6-bit scales and minima; b counts sub-blocks.
template <DType kType>
struct KFormat {
  static constexpr DType kStored = kType;
  static constexpr int kSteps = 8, kPairsPerStep = 2, kScales = 1;
  static constexpr bool kHasMinimum = true;
  static constexpr bool kHighBits = kType == DType::kQ5_K;
  static constexpr int kWords = PartsOf(kType).words;
  static constexpr int PairIndex(int step, int t) { return 2 * step + t; }

  static HWY_INLINE void Pairs(const uint8_t* tile, int b, int lane, int step, VI16* pairs) {
    const uint8_t* block = tile + b / 8 * TileBlockBytes(kType) + lane * 4;
    const int sub = b % 8;
    VI32 words = LoadWord(block, kWords - 32 + sub / 2 * 8 + step);
    words = hn::ShiftRightSame(words, sub % 2 * 4);
    VI32 low = Nibbles<0>(words), high = Nibbles<8>(words);
    if constexpr (kHighBits) {
      const VI32 one = hn::Set(DI32(), 0x00010001);
      const VI32 bits = hn::ShiftRightSame(LoadWord(block, 3 + step), sub);
      low = hn::Or(low, hn::ShiftLeft<4>(hn::And(bits, one)));
      high = hn::Or(high, hn::ShiftLeft<4>(hn::And(hn::ShiftRight<8>(bits), one)));
    }
    pairs[0] = AsPairs(low);
    pairs[1] = AsPairs(high);
  }
  static HWY_INLINE void Scales(const uint8_t* tile, int b, int lane, VF* scales, VF* minimum) {
    const uint8_t* block = tile + b / 8 * TileBlockBytes(kType);
    const int sub = b % 8, shift = sub % 4 * 8;
    const DI32 d;
    const auto bits = [&](int word, int from, int mask) HWY_ATTR {
      const VI32 words = LoadWord(block + lane * 4, word);
      return hn::And(hn::ShiftRightSame(words, from), hn::Set(d, mask));
    };
    VI32 scale, low;
    if (sub < 4) {
      scale = bits(0, shift, 63);
      low = bits(1, shift, 63);
    } else {
      scale = hn::Or(bits(2, shift, 15), hn::ShiftLeft<4>(bits(0, shift + 6, 3)));
      low = hn::Or(bits(2, shift + 4, 15), hn::ShiftLeft<4>(bits(1, shift + 6, 3)));
    }
    const DF df;
    scales[0] = hn::Mul(LoadHalf(block, kWords, 0, lane), hn::ConvertTo(df, scale));
    *minimum = hn::Neg(hn::Mul(LoadHalf(block, kWords, 1, lane), hn::ConvertTo(df, low)));
  }
};

// Q6_K: sixteen sub-blocks of 16, so two scales for each 32 values.
struct Q6_KFormat {
  static constexpr DType kStored = DType::kQ6_K;
  static constexpr int kSteps = 8, kPairsPerStep = 2, kScales = 2;
  static constexpr bool kHasMinimum = false;
  static constexpr int PairIndex(int step, int t) { return 2 * step + t; }

  static HWY_INLINE void Pairs(const uint8_t* tile, int b, int lane, int step, VI16* pairs) {
    const uint8_t* block = tile + b / 8 * TileBlockBytes(kStored) + lane * 4;
    const int half = b % 8 / 4, quarter = b % 4;
    VI32 words = LoadWord(block, half * 16 + quarter % 2 * 8 + step);
    words = hn::ShiftRightSame(words, quarter / 2 * 4);
    const VI32 high = hn::ShiftRightSame(LoadWord(block, 32 + half * 8 + step), 2 * quarter);
    const VI32 three = hn::Set(DI32(), 0x00030003);
    const VI16 centre = hn::Set(DI16(), int16_t{32});
    const VI32 first = hn::Or(Nibbles<0>(words), hn::ShiftLeft<4>(hn::And(high, three)));
    const VI32 second =
        hn::Or(Nibbles<8>(words), hn::ShiftLeft<4>(hn::And(hn::ShiftRight<8>(high), three)));
    pairs[0] = hn::Sub(AsPairs(first), centre);
    pairs[1] = hn::Sub(AsPairs(second), centre);
  }
  static HWY_INLINE void Scales(const uint8_t* tile, int b, int lane, VF* scales, VF*) {
    const uint8_t* block = tile + b / 8 * TileBlockBytes(kStored);
    const VF d = LoadHalf(block, 52, 0, lane);
    for (int s = 0; s < 2; ++s) {
      const int i = b % 8 * 2 + s;
      const VI32 word = LoadWord(block + lane * 4, 48 + i / 4);
      const VI32 byte = hn::And(hn::ShiftRightSame(word, i % 4 * 8), hn::Set(DI32(), 255));
      scales[s] = hn::Mul(d, hn::ConvertTo(DF(), hn::ShiftRight<24>(hn::ShiftLeft<24>(byte))));
    }
  }
};

}  // namespace HWY_NAMESPACE
}  // namespace tangram::ops
HWY_AFTER_NAMESPACE();

#endif
