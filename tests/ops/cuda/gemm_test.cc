#include "ops/cuda/gemm/gemm.h"

#include <gtest/gtest.h>

#include <cstring>
#include <functional>

#include "ops/cuda/device.h"
#include "ops/cuda/device_array.h"
#include "ops/cuda/gemm/gemm_stream.h"
#include "ops/cuda/gemm/matmul_runner.h"
#include "ops/cuda/numeric.h"

namespace tangram::ops::cuda {
namespace {

struct Problem {
  int m, n, k, f32_columns = 0;
  bool bias = false;
  int64_t out_stride = 0;
};

class StreamMatMul : public testing::Test {
 protected:
  struct Output {
    std::vector<__nv_bfloat16> bf16;  // as laid out, out_stride apart
    std::vector<float> f32;
  };

  // One workspace for all shapes, zeroed once.
  void SetUp() override {
    workspace_ = DeviceArray<char>(StreamWorkspaceBytes(20000, CurrentDevice().num_sms));
    workspace_.FillBytes(0);
  }

  void Make(const Problem& p) {
    p_ = p;
    x_ = RandomBf16(size_t(p.m) * p.k, 1);
    weight_ = RandomBf16(size_t(p.n) * p.k, 2, 0.05f);
    bias_ = RandomBf16(p.n, 3);
    device_x_ = DeviceArray<__nv_bfloat16>(x_);
    device_weight_ = DeviceArray<__nv_bfloat16>(weight_);
    device_bias_ = DeviceArray<__nv_bfloat16>(bias_);
  }

  int columns() const { return p_.n - p_.f32_columns; }
  int64_t stride() const { return p_.out_stride > 0 ? p_.out_stride : columns(); }

  // Rows [first, first + rows) of the product.
  Output Run(const StreamOptions& options, int first, int rows) {
    return RunWith(first, rows, [&](const MatMulArgs& args) {
      RunStreamMatMul(args, stream_workspace(), options, nullptr);
    });
  }

  Output RunWith(int first, int rows, const std::function<void(const MatMulArgs&)>& run) {
    DeviceArray<__nv_bfloat16> out(rows * stride());
    DeviceArray<float> out_f32(size_t(rows) * p_.f32_columns);
    out.FillBytes(0xff);
    out_f32.FillBytes(0xff);
    MatMulArgs args{device_x_.data() + size_t(first) * p_.k,
                    device_weight_.data(),
                    p_.bias ? device_bias_.data() : nullptr,
                    out.data(),
                    out_f32.data(),
                    rows,
                    p_.n,
                    p_.k,
                    p_.f32_columns,
                    p_.out_stride};
    run(args);
    TANGRAM_CUDA_CHECK(cudaDeviceSynchronize());
    return {out.Download(), out_f32.Download()};
  }

  StreamWorkspace stream_workspace() const { return {workspace_.data(), workspace_.bytes()}; }

  // What each output should be, in double.
  void ComputeExpected() {
    expected_.clear(), expected_f32_.clear();
    for (int m = 0; m < p_.m; ++m) {
      for (int n = 0; n < p_.n; ++n) {
        double sum = p_.bias ? double(__bfloat162float(bias_[n])) : 0.0;
        for (int k = 0; k < p_.k; ++k) {
          sum += double(__bfloat162float(x_[size_t(m) * p_.k + k])) *
                 __bfloat162float(weight_[size_t(n) * p_.k + k]);
        }
        (n < columns() ? expected_ : expected_f32_).push_back(sum);
      }
    }
  }

  void CheckAgainstDouble(const Output& out) const {
    std::vector<__nv_bfloat16> got;
    for (int m = 0; m < p_.m; ++m) {
      for (int64_t n = 0; n < stride(); ++n) {
        const __nv_bfloat16 value = out.bf16[m * stride() + n];
        if (n < columns()) {
          got.push_back(value);
        } else {
          EXPECT_TRUE(std::isnan(__bfloat162float(value))) << "written beyond the row";
        }
      }
    }
    if (columns() > 0) {
      EXPECT_LE(RelativeError(got, expected_), 1.05 * RoundingError(expected_));
    }
    if (p_.f32_columns > 0) {
      EXPECT_LE(RelativeError(out.f32, expected_f32_), 1e-5);
    }
  }

  Problem p_{};
  std::vector<__nv_bfloat16> x_, weight_, bias_;
  DeviceArray<__nv_bfloat16> device_x_, device_weight_, device_bias_;
  DeviceArray<char> workspace_;
  std::vector<double> expected_, expected_f32_;
};

// Whether a tile takes so many rows of x.
bool Fits(const StreamConfig& config, const Problem& p) {
  StreamLaunch launch{};
  launch.args.m = p.m;
  if (config.most_rows > 0) launch.even_rows = EvenTileRows(p.n, config.most_rows);
  return config.launch(launch, true);
}

bool SameBits(const std::vector<__nv_bfloat16>& a, const __nv_bfloat16* b) {
  return std::memcmp(a.data(), b, a.size() * sizeof(__nv_bfloat16)) == 0;
}

TEST_F(StreamMatMul, EveryTileAgreesWithDouble) {
  const Problem problems[] = {
      {1, 576, 576},
      {7, 130, 64},
      {8, 2560, 1024},
      {9, 48, 8, 0, true},
      {16, 1032, 640, 8},
      {17, 96, 576},
      {33, 261, 320, 5, true, 300},
      {64, 1536, 960, 0, true},
      {5, 512, 4096, 0, false, 1024},
      {3, 4608, 512, 7, true},  // 35 rows a block
      {16, 19456, 256},         // 148
      {31, 6208, 320, 64},      // 48, the last block fewer
  };
  for (const Problem& problem : problems) {
    Make(problem);
    ComputeExpected();
    for (int config = 0; config < int(StreamConfigs().size()); ++config) {
      if (!Fits(StreamConfigs()[config], problem)) continue;
      SCOPED_TRACE(testing::Message() << StreamConfigs()[config].name << " M=" << problem.m
                                      << " N=" << problem.n << " K=" << problem.k);
      CheckAgainstDouble(Run({.config = config}, 0, problem.m));
    }
  }
}

TEST_F(StreamMatMul, ThePlainKernelAgreesWithDouble) {
  for (const Problem& problem :
       {Problem{1, 130, 72}, {70, 96, 520, 8, true}, {129, 261, 328, 5, true, 300}}) {
    Make(problem);
    ComputeExpected();
    CheckAgainstDouble(
        RunWith(0, problem.m, [](const MatMulArgs& args) { RunSimpleMatMul(args, nullptr); }));
  }
}

TEST_F(StreamMatMul, TheNarrowKernelAgreesWithDoubleAndGivesARowTheSameBitsInAnyCompany) {
  for (const Problem& problem : {Problem{1, 8, 2560, 8},
                                 {70, 8, 4096, 8, true},
                                 {33, 5, 72, 5},
                                 {200, 64, 520, 64},
                                 {16, 12, 8, 12, true}}) {
    Make(problem);
    ComputeExpected();
    const auto narrow = [](const MatMulArgs& args) { RunNarrowMatMul(args, nullptr); };
    const Output all = RunWith(0, p_.m, narrow);
    CheckAgainstDouble(all);
    const int last = p_.m - 1;
    const Output part = RunWith(last, 1, narrow);
    EXPECT_EQ(std::memcmp(part.f32.data(), all.f32.data() + size_t(last) * p_.n, p_.n * 4), 0);
  }
}

class Runner : public StreamMatMul {
 protected:
  // Agrees with double, twice.
  void Check(MatMulRunner& runner) {
    for (int i = 0; i < 2; ++i) {
      CheckAgainstDouble(
          RunWith(0, p_.m, [&](const MatMulArgs& args) { runner.Run(args, nullptr); }));
    }
  }

  MatMulRunner Make(std::unique_ptr<CublasLt> library, bool invariant = false) {
    return {std::move(library), stream_workspace(), library_workspace_.data(), invariant};
  }
  using StreamMatMul::Make;

  // A few bf16 columns and a gate's; all of them; many in f32, with a bias and without.
  static constexpr Problem kProblems[] = {{1, 520, 320, 8, true, 600}, {40, 520, 320, 8, true, 600},
                                          {200, 264, 320, 8, false},   {70, 64, 192, 64},
                                          {70, 264, 192, 200},         {70, 264, 192, 200, true}};

  DeviceArray<char> library_workspace_{CublasLt::kWorkspaceBytes};
};

TEST_F(Runner, AgreesWithDoubleWithoutALibrary) {
  for (const bool invariant : {false, true}) {
    for (const Problem& problem : kProblems) {
      Make(problem);
      ComputeExpected();
      SCOPED_TRACE(testing::Message() << "M=" << problem.m << " invariant: " << invariant);
      MatMulRunner runner = Make(nullptr, invariant);
      Check(runner);
    }
  }
}

// Tuned and not. Where the library is not installed there is nothing to compare.
TEST_F(Runner, AgreesWithDoubleWithCublasLt) {
  const auto found = CublasLt::Open("libcublasLt.so.13");
  if (!found) GTEST_SKIP() << "needs cuBLASLt: " << found.error().message;
  for (const bool tuned : {false, true}) {
    for (const Problem& problem : kProblems) {
      Make(problem);
      ComputeExpected();
      SCOPED_TRACE(testing::Message() << "M=" << problem.m << " tuned: " << tuned);
      MatMulRunner runner = Make(*CublasLt::Open("libcublasLt.so.13"));
      if (tuned) {
        RunWith(0, p_.m, [&](const MatMulArgs& args) { runner.Tune({&args, 1}, nullptr); });
      }
      Check(runner);
    }
  }
}

TEST_F(Runner, InvariantModeGivesARowTheSameBitsInAnyCompany) {
  Make({130, 520, 320, 8, true});
  MatMulRunner runner = Make(nullptr, true);
  const auto run = [&](const MatMulArgs& args) { runner.Run(args, nullptr); };
  const auto simple = [](const MatMulArgs& args) { RunSimpleMatMul(args, nullptr); };
  const Output all = RunWith(0, 130, run), all_simple = RunWith(0, 130, simple);
  for (const auto& [first, rows] : {std::pair{0, 1}, {5, 40}, {99, 31}}) {
    const size_t at = size_t(first) * columns(), at_f32 = size_t(first) * p_.f32_columns;
    const Output part = RunWith(first, rows, run), part_simple = RunWith(first, rows, simple);
    EXPECT_TRUE(SameBits(part.bf16, all.bf16.data() + at)) << first;
    EXPECT_TRUE(SameBits(part_simple.bf16, all_simple.bf16.data() + at)) << first;
    EXPECT_EQ(std::memcmp(part.f32.data(), all.f32.data() + at_f32, part.f32.size() * 4), 0);
  }
}

TEST_F(StreamMatMul, MoreThan64RowsAreTakenInParts) {
  Make({150, 264, 192, 8, true, 264});
  ComputeExpected();
  CheckAgainstDouble(Run({}, 0, 150));
}

TEST_F(StreamMatMul, RepeatsToTheBitAndLeavesItsCountersAtZero) {
  Make({16, 2560, 4096});
  for (int config = 0; config < int(StreamConfigs().size()); ++config) {
    if (!Fits(StreamConfigs()[config], p_)) continue;
    const Output first = Run({.config = config}, 0, 16);
    for (int i = 0; i < 20; ++i) {
      ASSERT_TRUE(SameBits(Run({.config = config}, 0, 16).bf16, first.bf16.data()));
    }
    std::vector<char> counters = workspace_.Download();
    counters.erase(counters.begin(),
                   counters.begin() + StreamPartialBytes(CurrentDevice().num_sms));
    EXPECT_EQ(counters, std::vector<char>(counters.size(), 0));
  }
}

TEST_F(StreamMatMul, InvariantModeGivesARowTheSameBitsInAnyCompany) {
  Make({130, 1536, 2048, 0, true});
  const Output all = Run({.invariant = true}, 0, 130);
  for (const auto& [first, rows] : {std::pair{0, 1}, {3, 5}, {60, 16}, {1, 30}, {66, 64}}) {
    const Output part = Run({.invariant = true}, first, rows);
    EXPECT_TRUE(SameBits(part.bf16, all.bf16.data() + size_t(first) * p_.n)) << first;
  }
}

}  // namespace
}  // namespace tangram::ops::cuda
