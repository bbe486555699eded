// What quantised and f32 products share: preparing x, dealing groups of outputs to threads, writing
// the results. Included once for each target.
#if defined(TANGRAM_OPS_CPU_MATMUL_DRIVER_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TANGRAM_OPS_CPU_MATMUL_DRIVER_INL_H_
#undef TANGRAM_OPS_CPU_MATMUL_DRIVER_INL_H_
#else
#define TANGRAM_OPS_CPU_MATMUL_DRIVER_INL_H_
#endif

#include <algorithm>
#include <type_traits>

#include "ops/cpu/matmul.h"
#include "ops/cpu/packed_weight.h"
#include "ops/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace tangram::ops {
namespace HWY_NAMESPACE {

// Outputs computed together: two tiles. Rows of x computed together: what 16 or 32 registers hold.
inline constexpr int kGroupVectors = kGroupRows / kLanes;
inline constexpr int kRows = kLanes == 16 ? 8 : 4;
inline constexpr int kPass = HWY_MIN(2, kGroupVectors);  // vectors of outputs held in registers

// Calls body with a number of rows, at least `rows`, as a type: even numbers only, since each costs
// compile time. Rows behind the last are computed and not used; x and sums have room for kRows.
template <class Body>
HWY_INLINE void DispatchRows(int64_t rows, const Body& body) {
  if (rows <= 2) return body(std::integral_constant<int, 2>());
  if (rows <= 4) return body(std::integral_constant<int, 4>());
  if (rows <= 6) return body(std::integral_constant<int, HWY_MIN(kRows, 6)>());
  body(std::integral_constant<int, kRows>());
}

// Adds the bias and writes the outputs [n, n + count) of one row.
HWY_INLINE void WriteOutputs(const float* sums, const float* bias, int64_t count, float* out) {
  const DF df;
  for (int64_t i = 0; i < count; i += kLanes) {
    VF v = hn::LoadU(df, sums + i);
    if (count - i >= kLanes) {
      if (bias != nullptr) v = hn::Add(v, hn::LoadU(df, bias + i));
      hn::StoreU(v, df, out + i);
    } else {
      for (int64_t j = i; j < count; ++j) out[j] = bias != nullptr ? sums[j] + bias[j] : sums[j];
    }
  }
}

template <class Product>
void DriveMatMul(const MatMulParams& p, MatMulContext& context) {
  const int64_t rows = p.x.shape[0], depth = p.weight.shape[1], outputs = p.weight.shape[0];
  const int64_t stride = p.out_stride != 0 ? p.out_stride : outputs;
  const int64_t num_groups = NumGroups(outputs);
  const Product product{depth, (rows + kRows - 1) / kRows,
                        context.input.Get<uint8_t>(Product::InputBytes(rows, depth))};
  // Rows a task: enough work to be worth handing to another thread.
  const int64_t rows_a_task = std::max<int64_t>(1, 32768 / depth);
  context.pool.Run(static_cast<int>((rows + rows_a_task - 1) / rows_a_task), [&](int task, int) {
    const int64_t end = std::min(rows, (task + 1) * rows_a_task);
    for (int64_t t = task * rows_a_task; t < end; ++t) {
      product.PrepareRow(p.x.as<float>() + t * depth, t);
    }
  });

  const size_t panel_bytes = hwy::RoundUpTo(rows > 1 ? Product::WorkerBytes(depth) : 0, 64);
  const int64_t groups_a_task = std::max<int64_t>(1, num_groups / (4 * context.pool.num_threads()));
  const size_t sums_count = hwy::RoundUpTo(static_cast<size_t>(rows), kRows) * kGroupRows;
  const auto group_bytes = 2 * TileBytes(p.weight.dtype, depth);
  context.pool.Run(
      static_cast<int>((num_groups + groups_a_task - 1) / groups_a_task),
      [&](int task, int worker) {
        auto* panel = context.worker[worker].Get<uint8_t>(panel_bytes + sums_count * sizeof(float));
        auto* sums = reinterpret_cast<float*>(panel + panel_bytes);
        const int64_t end = std::min(num_groups, (task + 1) * groups_a_task);
        for (int64_t g = task * groups_a_task; g < end; ++g) {
          std::fill_n(sums, sums_count, 0.0f);
          const uint8_t* tiles = p.weight.as<uint8_t>() + g * group_bytes;
          if (rows == 1) {
            product.MultiplyRow(tiles, sums);
          } else {
            product.MultiplyRows(tiles, rows, panel, sums);
          }
          const float* bias = p.bias.empty() ? nullptr : p.bias.as<float>() + g * kGroupRows;
          for (int64_t t = 0; t < rows; ++t) {
            WriteOutputs(sums + t * kGroupRows, bias,
                         std::min<int64_t>(kGroupRows, outputs - g * kGroupRows),
                         p.out.as<float>() + t * stride + g * kGroupRows);
          }
        }
      });
}

}  // namespace HWY_NAMESPACE
}  // namespace tangram::ops
HWY_AFTER_NAMESPACE();

#endif
