#include "ops/cpu/matmul.h"

// Highway includes this file again for each target: the order matters.
// clang-format off
#include "ops/cpu/targets.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/cpu/float_matmul.cc"
#include <hwy/foreach_target.h>
#include "ops/cpu/matmul_driver-inl.h"
#include "ops/cpu/simd-inl.h"
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace tangram::ops {
namespace HWY_NAMESPACE {

// sums[kR][kGroupRows] += R rows of x times vectors [first, first + kV) of a group of outputs.
// `weight(k, v)` yields vector v of the weights at depth k; x lies as [k][kRows].
template <int kR, int kV, class Weight>
HWY_INLINE void MultiplyFloats(const Weight& weight, int first, int64_t depth, const float* x,
                               float* HWY_RESTRICT sums) {
  const DF df;
  sums += first * kLanes;
  VF total[kR][kV];
  for (int r = 0; r < kR; ++r) {
    for (int v = 0; v < kV; ++v) {
      total[r][v] = hn::Load(df, sums + r * kGroupRows + v * kLanes);
    }
  }
  for (int64_t k = 0; k < depth; ++k) {
    VF w[kV];
    for (int v = 0; v < kV; ++v) w[v] = weight(k, first + v);
    for (int r = 0; r < kR; ++r) {
      const VF xs = hn::Set(df, x[k * kRows + r]);
      for (int v = 0; v < kV; ++v) total[r][v] = hn::MulAdd(w[v], xs, total[r][v]);
    }
  }
  for (int r = 0; r < kR; ++r) {
    for (int v = 0; v < kV; ++v) {
      hn::Store(total[r][v], df, sums + r * kGroupRows + v * kLanes);
    }
  }
}

// The product for MatMulDriver, of weights stored as T.
template <class T>
struct FloatProduct {
  static constexpr int kDepthStep = 1024;  // depths of one panel: 128 KiB

  static size_t InputBytes(int64_t rows, int64_t depth) {
    return hwy::RoundUpTo(static_cast<size_t>(rows), kRows) * depth * sizeof(float);
  }
  static size_t WorkerBytes(int64_t depth) {
    return std::min<int64_t>(depth, kDepthStep) * kGroupRows * sizeof(float);
  }

  void PrepareRow(const float* x, int64_t row) const {
    float* to = input + row / kRows * depth * kRows + row % kRows;
    for (int64_t k = 0; k < depth; ++k) to[k * kRows] = x[k];
  }

  HWY_INLINE VF Load(const uint8_t* tiles, int64_t k, int v) const {
    const auto* weights = reinterpret_cast<const T*>(tiles);
    const int64_t tile = v * kLanes / kTileRows;
    return LoadAsFloat(weights + (tile * depth + k) * kTileRows + v * kLanes % kTileRows);
  }

  void MultiplyRow(const uint8_t* tiles, float* sums) const {
    const auto weight = [&](int64_t k, int v) HWY_ATTR { return Load(tiles, k, v); };
    MultiplyFloats<1, kGroupVectors>(weight, 0, depth, input, sums);
  }

  void MultiplyRows(const uint8_t* tiles, int64_t rows, uint8_t* panel_memory, float* sums) const {
    auto* panel = reinterpret_cast<float*>(panel_memory);
    const auto weight = [&](int64_t k, int v) HWY_ATTR {
      return hn::Load(DF(), panel + k * kGroupRows + v * kLanes);
    };
    for (int64_t k0 = 0; k0 < depth; k0 += kDepthStep) {
      const int64_t count = std::min<int64_t>(depth - k0, kDepthStep);
      for (int64_t k = 0; k < count; ++k) {
        for (int v = 0; v < kGroupVectors; ++v) {
          hn::Store(Load(tiles, k0 + k, v), DF(), panel + k * kGroupRows + v * kLanes);
        }
      }
      for (int64_t row = 0; row < rows; row += kRows) {
        const float* x = input + (row / kRows * depth + k0) * kRows;
        DispatchRows(rows - row, [&](auto r) HWY_ATTR {
          for (int v = 0; v < kGroupVectors; v += kPass) {
            MultiplyFloats<decltype(r)::value, kPass>(weight, v, count, x, sums + row * kGroupRows);
          }
        });
      }
    }
  }

  FloatProduct(int64_t depth_of_x, int64_t, uint8_t* memory)
      : depth(depth_of_x), input(reinterpret_cast<float*>(memory)) {}
  int64_t depth;
  float* input;
};

// kR rows of x, from `first` on, times one tile; rows behind the last repeat it and are not
// written.
template <int kR, class T>
HWY_INLINE void MultiplyTile(const MatMulParams& p, int64_t first) {
  constexpr int kVectors = kTileRows / kLanes;
  const DF df;
  const int64_t depth = p.weight.shape[1], last = p.x.shape[0] - 1;
  const float* x[kR];
  VF total[kR][kVectors];
  for (int r = 0; r < kR; ++r) {
    x[r] = p.x.as<float>() + std::min<int64_t>(first + r, last) * depth;
    for (int v = 0; v < kVectors; ++v) total[r][v] = hn::Zero(df);
  }
  const T* weights = p.weight.as<T>();
  for (int64_t k = 0; k < depth; ++k, weights += kTileRows) {
    VF w[kVectors];
    for (int v = 0; v < kVectors; ++v) w[v] = LoadAsFloat(weights + v * kLanes);
    for (int r = 0; r < kR; ++r) {
      const VF xs = hn::Set(df, x[r][k]);
      for (int v = 0; v < kVectors; ++v) total[r][v] = hn::MulAdd(w[v], xs, total[r][v]);
    }
  }
  const int64_t outputs = p.weight.shape[0];
  const int64_t stride = p.out_stride != 0 ? p.out_stride : outputs;
  const float* bias = p.bias.empty() ? nullptr : p.bias.as<float>();
  for (int r = 0; r < kR && first + r <= last; ++r) {
    HWY_ALIGN float sums[kTileRows];
    for (int v = 0; v < kVectors; ++v) hn::Store(total[r][v], df, sums + v * kLanes);
    WriteOutputs(sums, bias, outputs, p.out.as<float>() + (first + r) * stride);
  }
}

// Few outputs, such as a gate's, one for each KV head: x is read where it lies, as laying it out
// for a product so narrow costs more than the product. Each sum runs over k as in the wide one.
template <class T>
void MatMulNarrow(const MatMulParams& p, MatMulContext& context) {
  constexpr int64_t kRowsATask = 4 * kRows;
  const int64_t rows = p.x.shape[0];
  context.pool.Run(static_cast<int>((rows + kRowsATask - 1) / kRowsATask), [&](int task, int) {
    const int64_t end = std::min(rows, (task + 1) * kRowsATask);
    for (int64_t row = task * kRowsATask; row < end; row += kRows) {
      DispatchRows(end - row,
                   [&](auto r) HWY_ATTR { MultiplyTile<decltype(r)::value, T>(p, row); });
    }
  });
}

template <class T>
void MatMulOf(const MatMulParams& p, MatMulContext& context) {
  if (p.weight.shape[0] <= kTileRows) return MatMulNarrow<T>(p, context);
  DriveMatMul<FloatProduct<T>>(p, context);
}

void MatMulFloat(const MatMulParams& p, MatMulContext& context) {
  switch (p.weight.dtype) {
    case DType::kF32:
      return MatMulOf<float>(p, context);
    case DType::kF16:
      return MatMulOf<hwy::float16_t>(p, context);
    case DType::kBF16:
      return MatMulOf<hwy::bfloat16_t>(p, context);
    default:
      TANGRAM_CHECK(false, "weights of type {}", DTypeName(p.weight.dtype));
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace tangram::ops
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace tangram::ops {

HWY_EXPORT(MatMulFloat);
void MatMulFloat(const MatMulParams& p, MatMulContext& context) {
  HWY_DYNAMIC_DISPATCH(MatMulFloat)(p, context);
}

}  // namespace tangram::ops
#endif
