#include <gtest/gtest.h>

#include <cmath>

#include "ops/kv_world.h"

namespace tangram::ops {
namespace {

// Lengths about pages, vectors and parts (256 keys); head sizes that are no whole vectors; page
// sizes below and above a vector.
std::vector<KvWorldShape> Shapes(DType dtype) {
  return {
      {dtype,
       64,
       16,
       3,
       3,
       3,
       {{0, 1}, {1, 1}, {15, 1}, {16, 1}, {17, 1}, {255, 1}, {256, 1}, {700, 1}}},
      {dtype, 64, 16, 2, 1, 3, {{0, 40}}},
      {dtype, 64, 16, 4, 2, 4, {{250, 20}, {0, 1}, {513, 3}}},
      {dtype, 128, 16, 1, 2, 7, {{33, 1}, {300, 10}}},
      {dtype, 80, 32, 2, 2, 2, {{70, 5}}},
      {dtype, 20, 8, 2, 1, 1, {{300, 9}, {0, 60}}},
      {dtype, 256, 16, 2, 1, 8, {{40, 2}}},
      {dtype, 6, 24, 2, 2, 2, {{55, 7}, {250, 1}}},
      {dtype, 64, 1, 2, 1, 2, {{10, 3}, {270, 2}}},
      {dtype, 64, 512, 2, 1, 2, {{510, 5}}},
      {dtype, 64, 16, 2, 1, 100, {{20, 3}}},
  };
}

// Rounding K and V is part of what both compute, so all types have one tolerance: that of f32 sums.
constexpr double kTolerance = 2e-5;

std::vector<float> Attend(Backend& backend, KvWorld& world, const std::vector<float>& qkv,
                          const std::vector<SequenceSpan>& spans) {
  const int64_t heads = world.num_q_heads(), d = world.shape().head_dim;
  const Guarded in(backend, {world.num_tokens(), world.qkv_width()}, qkv);
  const Guarded out(backend, {world.num_tokens(), heads * d});
  backend.Attention({world.Begin(backend, spans), in.view(), out.view(), world.num_q_heads(),
                     1 / std::sqrt(static_cast<float>(d))});
  out.ExpectGuardsIntact();
  return out.values();
}

std::vector<float> Attend(Backend& backend, KvWorld& world, const std::vector<float>& qkv) {
  return Attend(backend, world, qkv, world.sequences());
}

class AttentionTest : public testing::TestWithParam<TestedBackend> {};

TEST_P(AttentionTest, EqualsTheReference) {
  const auto reference = CreateReferenceBackend();
  const auto backend = GetParam().create(2);
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    for (const KvWorldShape& shape : Shapes(dtype)) {
      SCOPED_TRACE(
          fmt::format("{} head_dim {} page {}", DTypeName(dtype), shape.head_dim, shape.page_size));
      KvWorld world(*backend, shape, 11), expected(*reference, shape, 11);
      const std::vector<float> qkv = Random(12).Normals(world.num_tokens() * world.qkv_width());
      world.AppendPlain(qkv);
      expected.AppendPlain(qkv);
      EXPECT_LE(RelativeError(Attend(*backend, world, qkv), Attend(*reference, expected, qkv)),
                kTolerance);
    }
  }
}

// Every token alone, and slices of several sizes, after the whole history is in place.
TEST_P(AttentionTest, SlicesAndThreadsDoNotChangeABit) {
  const auto one = GetParam().create(1);
  const auto four = GetParam().create(4);
  for (const KvWorldShape& shape : {KvWorldShape{DType::kF16, 64, 16, 2, 2, 3, {{250, 70}}},
                                    KvWorldShape{DType::kBF16, 80, 16, 1, 1, 5, {{0, 90}}},
                                    KvWorldShape{DType::kF16, 128, 24, 1, 1, 4, {{900, 40}}}}) {
    KvWorld world(*one, shape, 13);
    const std::vector<float> qkv = Random(14).Normals(world.num_tokens() * world.qkv_width());
    world.AppendPlain(qkv);
    const std::vector<float> whole = Attend(*one, world, qkv);
    ExpectSameBits(Attend(*four, world, qkv), whole);
    const SequenceSpan& all = world.sequences()[0];
    const int width = world.num_q_heads() * shape.head_dim;
    for (const int step : {1, 7, 16, 33}) {
      for (int t = 0; t < all.num_tokens; t += step) {
        SequenceSpan slice = all;
        slice.first_token = t;
        slice.num_tokens = std::min(step, all.num_tokens - t);
        slice.position += t;
        const std::vector<float> part = Attend(*four, world, qkv, {slice});
        const auto from = [&](const std::vector<float>& v) {
          return std::vector<float>(v.begin() + t * width,
                                    v.begin() + (t + slice.num_tokens) * width);
        };
        ExpectSameBits(from(part), from(whole));
      }
    }
  }
}

// Scores of many hundreds, of both signs: weights of exactly 0 and 1, no overflow.
TEST_P(AttentionTest, HugeLogits) {
  const auto reference = CreateReferenceBackend();
  const auto backend = GetParam().create(2);
  const KvWorldShape shape{DType::kF32, 64, 16, 2, 1, 3, {{600, 20}}};
  KvWorld world(*backend, shape, 15), expected(*reference, shape, 15);
  std::vector<float> qkv = Random(16).Normals(world.num_tokens() * world.qkv_width());
  world.AppendPlain(qkv);
  expected.AppendPlain(qkv);
  for (float& v : qkv) v *= 3000;
  // f32 scores near 10^4 are off by 10^-3, so weights near a tie are too.
  EXPECT_LE(RelativeError(Attend(*backend, world, qkv), Attend(*reference, expected, qkv)), 2e-2);
  for (float& v : qkv) v *= 1e20f;
  for (const float v : Attend(*backend, world, qkv)) EXPECT_TRUE(std::isfinite(v));
}

INSTANTIATE_TEST_SUITE_P(Backends, AttentionTest, testing::ValuesIn(TestedBackends()),
                         [](const auto& c) { return c.param.name; });

}  // namespace
}  // namespace tangram::ops
