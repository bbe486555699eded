#include "ops/cuda/step/elementwise.h"

#include <gtest/gtest.h>

#include "ops/cuda/device_array.h"
#include "ops/cuda/numeric.h"

namespace tangram::ops::cuda {
namespace {

using Bf16 = __nv_bfloat16;

double Value(Bf16 v) { return __bfloat162float(v); }

// Runs `launch` on a poisoned output of `size` elements.
template <class Launch>
std::vector<Bf16> Output(size_t size, const Launch& launch) {
  DeviceArray<Bf16> out(size);
  out.FillBytes(0xff);
  launch(out.data());
  TANGRAM_CUDA_CHECK(cudaDeviceSynchronize());
  return out.Download();
}

TEST(RmsNorm, AgreesWithDoubleAndUpdatesTheResidual) {
  for (const auto& [tokens, width] :
       {std::pair{1, 576}, {3, 4096}, {70, 2560}, {2, 16}, {5, 8192}, {2, 18944}}) {
    for (bool with_x : {false, true}) {
      SCOPED_TRACE(testing::Message() << tokens << "x" << width << " x: " << with_x);
      const size_t size = size_t(tokens) * width;
      const auto x = RandomBf16(size, 1), residual = RandomBf16(size, 2, 3.f);
      std::vector<float> weight(width);
      for (int i = 0; i < width; ++i) weight[i] = 0.5f + 0.001f * (i % 701);
      DeviceArray<Bf16> device_x(x), device_residual(residual);
      DeviceArray<float> device_weight(weight);
      const auto out = Output(size, [&](Bf16* to) {
        RunRmsNorm({with_x ? device_x.data() : nullptr, device_residual.data(),
                    device_weight.data(), to, tokens, width, 1e-6f},
                   nullptr);
      });
      const auto updated = device_residual.Download();
      std::vector<double> expected(size);
      for (int t = 0; t < tokens; ++t) {
        double squares = 0;
        for (int i = 0; i < width; ++i) {
          const size_t at = size_t(t) * width + i;
          const float sum = float(Value(residual[at]) + (with_x ? Value(x[at]) : 0.0));
          ASSERT_EQ(Value(updated[at]), Value(__float2bfloat16(sum)));
          squares += Value(updated[at]) * Value(updated[at]);
        }
        for (int i = 0; i < width; ++i) {
          const size_t at = size_t(t) * width + i;
          expected[at] = Value(updated[at]) / std::sqrt(squares / width + 1e-6) * weight[i];
        }
      }
      EXPECT_LE(RelativeError(out, expected), 1.01 * RoundingError(expected));
    }
  }
}

TEST(SiluMul, AgreesWithDouble) {
  for (const auto& [tokens, width] : {std::pair{1, 1536}, {3, 9728}, {129, 2056}}) {
    const auto gate_up = RandomBf16(size_t(tokens) * 2 * width, 3, 4.f);
    DeviceArray<Bf16> device(gate_up);
    const auto out = Output(size_t(tokens) * width, [&](Bf16* to) {
      RunSiluMul({device.data(), to, tokens, width}, nullptr);
    });
    std::vector<double> expected;
    for (int t = 0; t < tokens; ++t) {
      for (int i = 0; i < width; ++i) {
        const double gate = Value(gate_up[size_t(t) * 2 * width + i]);
        expected.push_back(gate / (1 + std::exp(-gate)) *
                           Value(gate_up[size_t(t) * 2 * width + width + i]));
      }
    }
    EXPECT_LE(RelativeError(out, expected), 1.01 * RoundingError(expected));
  }
}

TEST(SiluMul, HugeGatesGiveNoNaN) {
  std::vector<Bf16> gate_up(16, __float2bfloat16(2.f));
  for (int i = 0; i < 8; ++i) gate_up[i] = __float2bfloat16(i % 2 == 0 ? 1e38f : -1e38f);
  DeviceArray<Bf16> device(gate_up);
  const auto out = Output(8, [&](Bf16* to) { RunSiluMul({device.data(), to, 1, 8}, nullptr); });
  for (int i = 0; i < 8; ++i) {
    EXPECT_EQ(Value(out[i]), i % 2 == 0 ? 2 * Value(gate_up[0]) : 0.0) << i;
  }
}

TEST(GatherRows, CopiesTheNamedRows) {
  const int width = 264;
  const auto table = RandomBf16(100 * width, 4);
  const std::vector<int32_t> rows = {99, 0, 17, 17, 3};
  DeviceArray<Bf16> device(table);
  DeviceArray<int32_t> device_rows(rows);
  const auto out = Output(rows.size() * width, [&](Bf16* to) {
    RunGatherRows({device_rows.data(), device.data(), to, int(rows.size()), width}, nullptr);
  });
  for (size_t i = 0; i < out.size(); ++i) {
    ASSERT_EQ(Value(out[i]), Value(table[size_t(rows[i / width]) * width + i % width])) << i;
  }
}

}  // namespace
}  // namespace tangram::ops::cuda
