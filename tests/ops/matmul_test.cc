#include <gtest/gtest.h>

#include <cstring>
#include <limits>

#include "ops/op_test_support.h"

namespace tangram::ops {
namespace {

constexpr DType kTypes[] = {DType::kF32,  DType::kF16,  DType::kBF16, DType::kQ8_0, DType::kQ4_0,
                            DType::kQ4_1, DType::kQ4_K, DType::kQ5_K, DType::kQ6_K};

struct MatMulCase {
  int64_t rows, depth, outputs;
  bool bias;
  int64_t extra_columns;  // of the wider tensor that the output is part of
};

// Rows about the kernels' register blocks, depths about their panels, outputs about their tiles.
constexpr MatMulCase kCases[] = {
    {1, 256, 32, false, 0},  {1, 768, 49, true, 5},   {2, 512, 16, true, 0},
    {3, 256, 7, false, 3},   {4, 1536, 100, true, 0}, {5, 256, 33, false, 0},
    {7, 2304, 64, true, 9},  {8, 2048, 31, false, 0}, {9, 4352, 17, true, 0},
    {23, 512, 200, true, 1}, {64, 768, 95, false, 0}, {1, 512, 3, true, 0},
    {37, 768, 3, true, 2},
};

// Integer sums of x rounded to 16 bits: 2^-16 of the largest of 32 values. Else f32 sums over K.
double Tolerance(DType type) { return IsBlockQuantized(type) ? 2e-4 : 1e-5; }

std::string Name(DType type, const MatMulCase& c) {
  return fmt::format("{} rows {} depth {} outputs {}", DTypeName(type), c.rows, c.depth, c.outputs);
}

struct Product {
  Product(const MatMulCase& shape, DType stored_type, uint64_t seed) : c(shape), type(stored_type) {
    Random random(seed);
    weight = random.Weights(type, c.outputs * c.depth);
    bias = random.Normals(c.outputs);
    x = random.Normals(c.rows * c.depth);
  }
  // Rows [first, first + count) of the product.
  std::vector<float> Run(Backend& backend, int64_t first, int64_t count) {
    const Guarded in(backend, {count, c.depth},
                     {x.begin() + first * c.depth, x.begin() + (first + count) * c.depth});
    const Guarded b(backend, {c.outputs}, bias);
    const int64_t stride = c.outputs + c.extra_columns;
    const Guarded out(backend, {count, stride}, std::vector<float>(count * stride, -7.0f));
    const TensorView stored{weight.data(), type, {c.outputs, c.depth}};
    MatMulParams p{in.view(), backend.Upload(stored), c.bias ? b.view() : TensorView{}, {}, stride};
    p.out = {out.view().data, DType::kF32, {count, c.outputs}};
    backend.MatMul(p);
    out.ExpectGuardsIntact();
    std::vector<float> result;
    const std::vector<float> all = out.values();
    for (int64_t t = 0; t < count; ++t) {
      const auto row = all.begin() + t * stride;
      result.insert(result.end(), row, row + c.outputs);
      for (int64_t i = c.outputs; i < stride; ++i) EXPECT_EQ(row[i], -7.0f) << "column " << i;
    }
    return result;
  }

  MatMulCase c;
  DType type;
  std::vector<uint8_t> weight;
  std::vector<float> bias, x;
};

class MatMulTest : public testing::TestWithParam<TestedBackend> {};

TEST_P(MatMulTest, EqualsTheReference) {
  const auto reference = CreateReferenceBackend();
  const auto backend = GetParam().create(2);
  for (const DType type : kTypes) {
    for (const MatMulCase& c : kCases) {
      SCOPED_TRACE(Name(type, c));
      Product product(c, type, 5);
      EXPECT_LE(RelativeError(product.Run(*backend, 0, c.rows), product.Run(*reference, 0, c.rows)),
                Tolerance(type));
    }
  }
}

TEST_P(MatMulTest, RowsDoNotDependOnEachOtherNorOnThreads) {
  const auto one = GetParam().create(1);
  const auto three = GetParam().create(3);
  for (const DType type : kTypes) {
    for (const MatMulCase& c :
         {MatMulCase{23, 2304, 95, true, 0}, MatMulCase{9, 512, 320, false, 0},
          MatMulCase{9, 1536, 3, true, 0}}) {
      SCOPED_TRACE(Name(type, c));
      Product product(c, type, 6);
      const std::vector<float> whole = product.Run(*one, 0, c.rows);
      ExpectSameBits(product.Run(*three, 0, c.rows), whole);
      for (const int64_t step : {1, 2, 5, 8}) {
        std::vector<float> parts;
        for (int64_t t = 0; t < c.rows; t += step) {
          const std::vector<float> part = product.Run(*three, t, std::min(step, c.rows - t));
          parts.insert(parts.end(), part.begin(), part.end());
        }
        ExpectSameBits(parts, whole);
      }
    }
  }
}

TEST_P(MatMulTest, NanAndInfinityStayInTheirRow) {
  const auto backend = GetParam().create(2);
  for (const DType type : kTypes) {
    const MatMulCase c{9, 256, 40, false, 0};
    SCOPED_TRACE(Name(type, c));
    Product product(c, type, 7);
    const std::vector<float> clean = product.Run(*backend, 0, c.rows);
    product.x[3 * c.depth + 17] = std::numeric_limits<float>::quiet_NaN();
    product.x[5 * c.depth + 1] = std::numeric_limits<float>::infinity();
    const std::vector<float> out = product.Run(*backend, 0, c.rows);
    for (int64_t i = 0; i < c.rows * c.outputs; ++i) {
      const int64_t row = i / c.outputs;
      if (row == 3 || row == 5) {
        EXPECT_FALSE(std::isfinite(out[i]));
      } else {
        EXPECT_EQ(out[i], clean[i]);
      }
    }
  }
}

TEST_P(MatMulTest, ZerosAndTinyAndHugeValues) {
  const auto reference = CreateReferenceBackend();
  const auto backend = GetParam().create(2);
  for (const DType type : kTypes) {
    for (const float scale : {0.0f, 1e-30f, 1e30f}) {
      const MatMulCase c{3, 256, 40, false, 0};
      Product product(c, type, 8);
      for (float& v : product.x) v *= scale;
      EXPECT_LE(RelativeError(product.Run(*backend, 0, c.rows), product.Run(*reference, 0, c.rows)),
                Tolerance(type))
          << Name(type, c) << " scale " << scale;
    }
  }
}

TEST_P(MatMulTest, EmbeddingReadsTheTableOfTheProduct) {
  const auto reference = CreateReferenceBackend();
  const auto backend = GetParam().create(2);
  StepInput input;
  input.tokens = {0, 36, 5, 16, 15, 36};
  for (const DType type : kTypes) {
    std::vector<uint8_t> table = Random(9).Weights(type, 37 * 512);
    const TensorView stored{table.data(), type, {37, 512}};
    const Guarded out(*backend, {6, 512}), expected(*reference, {6, 512});
    backend->Embedding({&backend->Begin(input, {}, nullptr), backend->Upload(stored), out.view()});
    reference->Embedding({&reference->Begin(input, {}, nullptr), stored, expected.view()});
    out.ExpectGuardsIntact();
    ExpectSameBits(out.values(), expected.values());
  }
}

TEST(CpuBackendTest, AWeightThatDoesNotFitIsNotUploaded) {
  float element = 0;
  const auto backend = CreateCpuBackend(1);
  const TensorView huge{&element, DType::kF32, {int64_t{1} << 40, 1 << 10}};
  EXPECT_TRUE(backend->Upload(huge).empty());
}

INSTANTIATE_TEST_SUITE_P(Backends, MatMulTest, testing::ValuesIn(TestedBackends()),
                         [](const auto& c) { return c.param.name; });

}  // namespace
}  // namespace tangram::ops
