#include "ops/cpu/matmul.h"

// Highway includes this file again for each target: the order matters.
// clang-format off
#include "ops/cpu/targets.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/cpu/quantized_matmul.cc"
#include <hwy/foreach_target.h>
#include "ops/cpu/matmul_driver-inl.h"
#include "ops/cpu/quantized_formats-inl.h"
#include "ops/cpu/simd-inl.h"
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace tangram::ops {
namespace HWY_NAMESPACE {

constexpr int kBlock = 32;  // values of x with one scale
constexpr int kPairs = kBlock / 2;

// kRows rows of x from block `b` on: values [b][kRows][32], then scales and sums * scale
// [b][kRows].
struct QuantizedInput {
  const int16_t* values;
  const float* scales;
  const float* sums;
};

// Rounds 32 values to 16 bits, each four in the order 0, 2, 1, 3: the order that Pairs() yields.
HWY_INLINE void QuantizeBlock(const float* x, int16_t* values, float* scale, float* sum) {
  const DF df;
  const DI32 di;
  VF largest = hn::Zero(df), poison = hn::Zero(df);  // poison: NaN if a value is, or is infinite
  for (int i = 0; i < kBlock; i += kLanes) {
    const VF v = hn::LoadU(df, x + i);
    largest = hn::Max(largest, hn::Abs(v));
    poison = hn::MulAdd(v, hn::Zero(df), poison);
  }
  const float limit = hn::GetLane(hn::MaxOfLanes(df, largest));
  const VF inverse = hn::Set(df, limit > 0 ? 32767.0f / limit : 0.0f);
  alignas(64) int32_t order[kLanes];
  for (int i = 0; i < kLanes; ++i) order[i] = i / 4 * 4 + (i % 4 == 1 ? 2 : i % 4 == 2 ? 1 : i % 4);
  const auto indices = hn::SetTableIndices(di, order);
  VI32 total = hn::Zero(di);
  for (int i = 0; i < kBlock; i += kLanes) {
    const VI32 q = hn::NearestInt(hn::Mul(hn::LoadU(df, x + i), inverse));
    total = hn::Add(total, q);
    const hn::Rebind<int16_t, DI32> d16;
    hn::StoreU(hn::DemoteTo(d16, hn::TableLookupLanes(q, indices)), d16, values + i);
  }
  *scale = limit / 32767.0f + hn::GetLane(hn::SumOfLanes(df, poison));
  *sum = *scale * static_cast<float>(hn::GetLane(hn::SumOfLanes(di, total)));
}

// Reads pairs and scales of `Format` straight from kVectors * kLanes outputs of packed tiles.
template <class Format>
struct PackedSource {
  static constexpr int kSteps = Format::kSteps, kPairsPerStep = Format::kPairsPerStep;
  static constexpr int kScales = Format::kScales;
  static constexpr bool kHasMinimum = Format::kHasMinimum;
  static constexpr int PairIndex(int step, int t) { return Format::PairIndex(step, t); }
  const uint8_t* tiles;
  size_t tile_bytes;
  int first_block;

  HWY_INLINE const uint8_t* Tile(int v) const {
    return tiles + v * kLanes / kTileRows * tile_bytes;
  }
  HWY_INLINE void Pairs(int b, int v, int step, VI16* pairs) const {
    Format::Pairs(Tile(v), first_block + b, v * kLanes % kTileRows, step, pairs);
  }
  HWY_INLINE void Scales(int b, int v, VF* scales, VF* minimum) const {
    Format::Scales(Tile(v), first_block + b, v * kLanes % kTileRows, scales, minimum);
  }
  // Asks for the same 32 values of the next group of outputs. The processor's own prefetching stops
  // at page boundaries, which come every few hundred cycles here.
  HWY_INLINE void PrefetchNextGroup(int b) const {
    constexpr int kBlocks = BlockSize(Format::kStored) / kBlock;
    constexpr size_t kBytes = TileBlockBytes(Format::kStored) / kBlocks;
    for (size_t tile = 0; tile < kGroupRows / kTileRows; ++tile) {
      const uint8_t* next =
          tiles + (kGroupRows / kTileRows + tile) * tile_bytes + (first_block + b) * kBytes;
      for (size_t i = 0; i < kBytes; i += 64) hwy::Prefetch(next + i);
    }
  }
};

// The same, unpacked to 16 bits once for all rows of x: for each block kGroupVectors vectors of
// each pair; scales and minima, f32, follow.
template <int kScaleCount, bool kMinimum>
struct PanelSource {
  static constexpr int kSteps = kPairs, kPairsPerStep = 1;
  static constexpr int kScales = kScaleCount;
  static constexpr bool kHasMinimum = kMinimum;
  static constexpr int kFloats = (kScales + (kMinimum ? 1 : 0)) * kGroupRows;
  static constexpr int kBlockBytes = kBlock * kGroupRows * 2 + kFloats * 4;
  static constexpr int PairIndex(int step, int) { return step; }
  uint8_t* panel;

  HWY_INLINE int16_t* PairAt(int b, int v, int pair) const {
    return reinterpret_cast<int16_t*>(panel + b * kBlockBytes) +
           (pair * kGroupVectors + v) * 2 * kLanes;
  }
  HWY_INLINE float* FloatAt(int b, int v, int i) const {
    return reinterpret_cast<float*>(panel + b * kBlockBytes + kBlock * kGroupRows * 2) +
           (i * kGroupVectors + v) * kLanes;
  }
  HWY_INLINE void Pairs(int b, int v, int step, VI16* pairs) const {
    pairs[0] = hn::Load(DI16(), PairAt(b, v, step));
  }
  HWY_INLINE void Scales(int b, int v, VF* scales, VF* minimum) const {
    for (int s = 0; s < kScales; ++s) scales[s] = hn::Load(DF(), FloatAt(b, v, s));
    if constexpr (kMinimum) *minimum = hn::Load(DF(), FloatAt(b, v, kScales));
  }
};

template <class Format>
using PanelOf = PanelSource<Format::kScales, Format::kHasMinimum>;

template <class Format>
void UnpackPanel(const PackedSource<Format>& source, int num_blocks, const PanelOf<Format>& panel) {
  for (int b = 0; b < num_blocks; ++b) {
    source.PrefetchNextGroup(b);
    for (int v = 0; v < kGroupVectors; ++v) {
      HWY_UNROLL(8)
      for (int step = 0; step < Format::kSteps; ++step) {
        VI16 pairs[Format::kPairsPerStep];
        source.Pairs(b, v, step, pairs);
        for (int t = 0; t < Format::kPairsPerStep; ++t) {
          hn::Store(pairs[t], DI16(), panel.PairAt(b, v, Format::PairIndex(step, t)));
        }
      }
      VF scales[2], minimum;
      source.Scales(b, v, scales, &minimum);
      for (int s = 0; s < Format::kScales; ++s) hn::Store(scales[s], DF(), panel.FloatAt(b, v, s));
      if constexpr (Format::kHasMinimum) {
        hn::Store(minimum, DF(), panel.FloatAt(b, v, Format::kScales));
      }
    }
  }
}

// sums[kR][kGroupRows] += R rows of x times a group of outputs, vectors [first_vector, + kV).
template <int kR, int kV, class Source>
HWY_INLINE void MultiplyBlocks(const Source& source, int first_vector, int num_blocks,
                               const QuantizedInput& x, float* HWY_RESTRICT sums) {
  const DF df;
  const DI32 di;
  VF total[kR][kV];
  for (int r = 0; r < kR; ++r) {
    for (int v = 0; v < kV; ++v) {
      total[r][v] = hn::Load(df, sums + r * kGroupRows + (first_vector + v) * kLanes);
    }
  }
  constexpr int kStepsPerScale = Source::kSteps / Source::kScales;
  for (int b = 0; b < num_blocks; ++b) {
    if constexpr (kR == 1) {
      if (first_vector == 0) source.PrefetchNextGroup(b);
    }
    const int16_t* values = x.values + b * kRows * kBlock;
    VF scales[kV][2], minimum[kV];
    for (int v = 0; v < kV; ++v) source.Scales(b, first_vector + v, scales[v], &minimum[v]);
    HWY_UNROLL(2)
    for (int s = 0; s < Source::kScales; ++s) {
      VI32 dot[kR][kV];
      for (int r = 0; r < kR; ++r) {
        for (int v = 0; v < kV; ++v) dot[r][v] = hn::Zero(di);
      }
      HWY_UNROLL(16)
      for (int i = 0; i < kStepsPerScale; ++i) {
        const int step = s * kStepsPerScale + i;
        VI16 pairs[kV][Source::kPairsPerStep];
        for (int v = 0; v < kV; ++v) source.Pairs(b, first_vector + v, step, pairs[v]);
        for (int t = 0; t < Source::kPairsPerStep; ++t) {
          for (int r = 0; r < kR; ++r) {
            int32_t pair;
            std::memcpy(&pair, values + r * kBlock + 2 * Source::PairIndex(step, t), 4);
            const VI16 xs = hn::BitCast(DI16(), hn::Set(di, pair));
            for (int v = 0; v < kV; ++v) dot[r][v] = DotPairs(pairs[v][t], xs, dot[r][v]);
          }
        }
      }
      for (int r = 0; r < kR; ++r) {
        const VF scale = hn::Set(df, x.scales[b * kRows + r]);
        for (int v = 0; v < kV; ++v) {
          const VF product = hn::Mul(hn::ConvertTo(df, dot[r][v]), scale);
          total[r][v] = hn::MulAdd(product, scales[v][s], total[r][v]);
        }
      }
    }
    if constexpr (Source::kHasMinimum) {
      for (int r = 0; r < kR; ++r) {
        const VF sum = hn::Set(df, x.sums[b * kRows + r]);
        for (int v = 0; v < kV; ++v) total[r][v] = hn::MulAdd(minimum[v], sum, total[r][v]);
      }
    }
  }
  for (int r = 0; r < kR; ++r) {
    for (int v = 0; v < kV; ++v) {
      hn::Store(total[r][v], df, sums + r * kGroupRows + (first_vector + v) * kLanes);
    }
  }
}

// The product for MatMulDriver: how x is prepared, and how a group of outputs is computed.
template <class Format>
struct QuantizedProduct {
  static constexpr int kDepthStep =
      2048;  // values along K of one panel: 128 KiB, half of a small L2

  static size_t InputBytes(int64_t rows, int64_t depth) {
    return hwy::RoundUpTo(static_cast<size_t>(rows), kRows) * (depth * 2 + depth / kBlock * 8);
  }
  static size_t WorkerBytes(int64_t depth) {
    return (std::min<int64_t>(depth, kDepthStep) / kBlock) * PanelOf<Format>::kBlockBytes;
  }

  QuantizedInput At(int64_t row_block, int64_t b) const {
    const int64_t blocks = depth / kBlock, at = (row_block * blocks + b) * kRows;
    const int64_t all = num_row_blocks * blocks * kRows;
    const auto* scales = reinterpret_cast<const float*>(input + all * kBlock * 2);
    return {reinterpret_cast<const int16_t*>(input) + at * kBlock, scales + at, scales + all + at};
  }

  void PrepareRow(const float* x, int64_t row) const {
    for (int64_t b = 0; b < depth / kBlock; ++b) {
      const QuantizedInput to = At(row / kRows, b);
      const int64_t r = row % kRows;
      QuantizeBlock(x + b * kBlock, const_cast<int16_t*>(to.values) + r * kBlock,
                    const_cast<float*>(to.scales) + r, const_cast<float*>(to.sums) + r);
    }
  }

  // Outputs of one row, without a panel: each weight is used once.
  void MultiplyRow(const uint8_t* tiles, float* sums) const {
    const PackedSource<Format> source{tiles, TileBytes(Format::kStored, depth), 0};
    for (int v = 0; v < kGroupVectors; v += kPass) {
      MultiplyBlocks<1, kPass>(source, v, static_cast<int>(depth / kBlock), At(0, 0), sums);
    }
  }

  void MultiplyRows(const uint8_t* tiles, int64_t rows, uint8_t* panel_memory, float* sums) const {
    const PanelOf<Format> panel{panel_memory};
    for (int64_t k = 0; k < depth; k += kDepthStep) {
      const int first = static_cast<int>(k / kBlock);
      const int count = static_cast<int>(std::min<int64_t>(depth - k, kDepthStep) / kBlock);
      UnpackPanel<Format>({tiles, TileBytes(Format::kStored, depth), first}, count, panel);
      for (int64_t row = 0; row < rows; row += kRows) {
        const QuantizedInput x = At(row / kRows, first);
        float* to = sums + row * kGroupRows;
        DispatchRows(rows - row, [&](auto r) HWY_ATTR {
          for (int v = 0; v < kGroupVectors; v += kPass) {
            MultiplyBlocks<decltype(r)::value, kPass>(panel, v, count, x, to);
          }
        });
      }
    }
  }

  int64_t depth, num_row_blocks;
  uint8_t* input;
};

void MatMulQuantized(const MatMulParams& p, MatMulContext& context) {
  switch (p.weight.dtype) {
    case DType::kQ8_0:
      return DriveMatMul<QuantizedProduct<Q8_0Format>>(p, context);
    case DType::kQ4_0:
      return DriveMatMul<QuantizedProduct<Nibble32Format<DType::kQ4_0>>>(p, context);
    case DType::kQ4_1:
      return DriveMatMul<QuantizedProduct<Nibble32Format<DType::kQ4_1>>>(p, context);
    case DType::kQ4_K:
      return DriveMatMul<QuantizedProduct<KFormat<DType::kQ4_K>>>(p, context);
    case DType::kQ5_K:
      return DriveMatMul<QuantizedProduct<KFormat<DType::kQ5_K>>>(p, context);
    case DType::kQ6_K:
      return DriveMatMul<QuantizedProduct<Q6_KFormat>>(p, context);
    default:
      TANGRAM_CHECK(false, "weights of type {}", DTypeName(p.weight.dtype));
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace tangram::ops
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace tangram::ops {

HWY_EXPORT(MatMulQuantized);
void MatMulQuantized(const MatMulParams& p, MatMulContext& context) {
  HWY_DYNAMIC_DISPATCH(MatMulQuantized)(p, context);
}

}  // namespace tangram::ops
#endif
