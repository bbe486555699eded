#include <gtest/gtest.h>

#include <cmath>

#include "ops/kv_world.h"

namespace tangram::ops {
namespace {

class ElementwiseTest : public testing::TestWithParam<TestedBackend> {
 protected:
  const std::unique_ptr<Backend> reference_ = CreateReferenceBackend();
  const std::unique_ptr<Backend> backend_ = GetParam().create(2);
};

struct NormResult {
  std::vector<float> out, residual;
};

NormResult Norm(Backend& backend, int64_t rows, int64_t width, bool with_x, float scale) {
  Random random(21);
  const Guarded residual(backend, {rows, width}, random.Normals(rows * width, scale));
  const Guarded x(backend, {rows, width}, random.Normals(rows * width, scale));
  const Guarded weight(backend, {width}, random.Normals(width));
  const Guarded out(backend, {rows, width});
  backend.RmsNorm(
      {with_x ? x.view() : TensorView{}, residual.view(), weight.view(), out.view(), 1e-6f});
  out.ExpectGuardsIntact();
  residual.ExpectGuardsIntact();
  return {out.values(), residual.values()};
}

TEST_P(ElementwiseTest, RmsNorm) {
  for (const int64_t width : {1, 7, 64, 576, 1001}) {
    for (const int64_t rows : {1, 3, 70}) {
      for (const bool with_x : {false, true}) {
        for (const float scale : {0.0f, 1e-3f, 1.0f, 1e4f}) {
          const NormResult got = Norm(*backend_, rows, width, with_x, scale);
          const NormResult expected = Norm(*reference_, rows, width, with_x, scale);
          EXPECT_LE(RelativeError(got.out, expected.out), 2e-6) << width;
          ExpectSameBits(got.residual, expected.residual);
        }
      }
    }
  }
}

std::vector<float> Silu(Backend& backend, int64_t rows, int64_t width,
                        const std::vector<float>& in) {
  const Guarded gate_up(backend, {rows, 2 * width}, in);
  const Guarded out(backend, {rows, width});
  backend.SiluMul({gate_up.view(), out.view()});
  out.ExpectGuardsIntact();
  return out.values();
}

TEST_P(ElementwiseTest, SiluMul) {
  for (const int64_t width : {1, 19, 64, 1536}) {
    for (const int64_t rows : {1, 40}) {
      const std::vector<float> in = Random(22).Normals(rows * 2 * width, 4);
      EXPECT_LE(RelativeError(Silu(*backend_, rows, width, in), Silu(*reference_, rows, width, in)),
                2e-6);
    }
  }
  const std::vector<float> extremes = {-1e30f, -200, -88.5f, 0, 88.5f, 200, 1e30f,  //
                                       1,      1,    1,      1, 1,     1,   1};
  const std::vector<float> out = Silu(*backend_, 1, 7, extremes);
  for (int i = 0; i < 3; ++i) EXPECT_NEAR(out[i] / extremes[i], 0, 1e-30);
  for (int i = 3; i < 7; ++i) EXPECT_FLOAT_EQ(out[i], extremes[i]);
}

struct AppendCase {
  KvWorldShape shape;
  bool norm;
  RopeStyle style;
  float rope_scale;
};

// Runs the op and returns the rotated qkv.
std::vector<float> RunAppend(Backend& backend, KvWorld& world, const AppendCase& c,
                             const std::vector<float>& qkv,
                             const std::vector<SequenceSpan>& spans) {
  const int64_t d = c.shape.head_dim;
  const Guarded in(backend, {world.num_tokens(), world.qkv_width()}, qkv);
  Random random(24);
  const Guarded q_norm(backend, {d}, random.Normals(d)), k_norm(backend, {d}, random.Normals(d));
  std::vector<float> inv_freq;
  for (int64_t i = 0; i < d / 2; ++i) {
    inv_freq.push_back(std::pow(10000.0f, -2.0f * static_cast<float>(i) / static_cast<float>(d)));
  }
  AppendParams p{.at = world.Begin(backend, spans),
                 .qkv = in.view(),
                 .num_q_heads = world.num_q_heads(),
                 .epsilon = 1e-6f,
                 .rope = {inv_freq.data(), c.rope_scale, c.style}};
  if (c.norm) {
    p.q_norm = q_norm.view();
    p.k_norm = k_norm.view();
  }
  backend.Append(p);
  in.ExpectGuardsIntact();
  return in.values();
}

// One unit in the last place of the type's mantissa: the rotated values differ by f32 rounding.
double Ulp(DType type) {
  return type == DType::kF32 ? 1e-6 : type == DType::kF16 ? 0x1p-10 : 0x1p-7;
}

void ExpectSameKv(const KvWorld& got, const KvWorld& expected) {
  const KvWorldShape& shape = got.shape();
  for (int s = 0; s < static_cast<int>(shape.sequences.size()); ++s) {
    for (int h = 0; h < shape.num_kv_heads; ++h) {
      const int end = got.history(s, h) + shape.sequences[s].second;
      for (int i = 0; i < end * shape.head_dim * 2; ++i) {
        const int at = i / shape.head_dim / 2, dim = i % shape.head_dim;
        const bool value = i / shape.head_dim % 2 == 1;
        const float a = got.Get(s, h, at, value, dim), b = expected.Get(s, h, at, value, dim);
        ASSERT_LE(std::abs(a - b), Ulp(shape.dtype) * std::abs(b) + 1e-5)
            << "token " << at << " dim " << dim;
      }
    }
  }
}

int64_t NumNan(const KvWorld& world) {
  int64_t count = 0;
  const KvWorldShape& s = world.shape();
  const int64_t elements = world.kv().num_pages * s.group_size * 2 * s.page_size * s.head_dim;
  const std::vector<uint8_t> bytes = world.Bytes();
  const int64_t size = static_cast<int64_t>(bytes.size()) / elements;
  for (int64_t i = 0; i < elements; ++i) {
    if (bytes[i * size] == 0xFF && bytes[i * size + size - 1] == 0xFF) ++count;
  }
  return count;
}

TEST_P(ElementwiseTest, Append) {
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    const std::vector<std::pair<int, int>> sequences = {
        {0, 1}, {15, 1}, {16, 1}, {40, 20}, {0, 17}};
    for (const AppendCase& c : {
             AppendCase{{dtype, 64, 16, 3, 3, 3, sequences}, false, RopeStyle::kInterleaved, 1},
             AppendCase{{dtype, 64, 16, 2, 2, 2, {{100, 70}}}, false, RopeStyle::kHalf, 1.25f},
             AppendCase{{dtype, 128, 16, 1, 2, 7, sequences}, true, RopeStyle::kHalf, 1},
             AppendCase{{dtype, 20, 8, 2, 1, 4, sequences}, true, RopeStyle::kInterleaved, 1},
             AppendCase{{dtype, 6, 24, 2, 1, 1, {{50, 3}}}, false, RopeStyle::kHalf, 1},
         }) {
      SCOPED_TRACE(fmt::format("{} head_dim {}", DTypeName(dtype), c.shape.head_dim));
      KvWorld got(*backend_, c.shape, 23), expected(*reference_, c.shape, 23);
      const std::vector<float> qkv = Random(25).Normals(got.num_tokens() * got.qkv_width());
      const int64_t unwritten =
          NumNan(got) - int64_t{2} * got.num_tokens() * c.shape.num_kv_heads * c.shape.head_dim;
      // Twice, with other positions: what the first call remembers of them must not be used.
      for (const int shift : {100 * KvWorld::kChunk, 0}) {
        std::vector<SequenceSpan> spans = got.sequences();
        for (SequenceSpan& span : spans) span.position += shift;
        const std::vector<float> a = RunAppend(*backend_, got, c, qkv, spans);
        const std::vector<float> b = RunAppend(*reference_, expected, c, qkv, spans);
        EXPECT_LE(RelativeError(a, b), 5e-6);
        ExpectSameKv(got, expected);
      }
      EXPECT_EQ(NumNan(got), unwritten) << "slots written that belong to nobody";
    }
  }
}

TEST_P(ElementwiseTest, AppendSaturatesF16) {
  const AppendCase c{{DType::kF16, 64, 16, 2, 1, 1, {{3, 2}}}, false, RopeStyle::kHalf, 1};
  KvWorld got(*backend_, c.shape, 23), expected(*reference_, c.shape, 23);
  std::vector<float> qkv = Random(26).Normals(got.num_tokens() * got.qkv_width(), 1e6f);
  RunAppend(*backend_, got, c, qkv, got.sequences());
  RunAppend(*reference_, expected, c, qkv, expected.sequences());
  ExpectSameKv(got, expected);
  EXPECT_EQ(std::abs(got.Get(0, 0, 3, true, 0)), 65504.0f);
}

// Pages, what lies beside them, and the page table.
TEST_P(ElementwiseTest, BeginCopiesPages) {
  KvWorld world(*backend_, {DType::kF16, 64, 16, 4, 2, 1, {{200, 1}}}, 27);
  const KvView& kv = world.kv();
  StepInput input;
  input.page_copies = {{0, 1}, {5, 2}, {9, 17}};
  const int64_t scores_a_page = int64_t{kv.group_size} * kv.page_size;
  const std::vector<float> scores = Random(29).Normals(kv.num_pages * scores_a_page);
  const Guarded pool_scores(*backend_, {kv.num_pages * scores_a_page}, scores);
  const std::vector<uint8_t> before = world.Bytes();
  backend_->Begin(input, kv, pool_scores.view().as<float>());
  pool_scores.ExpectGuardsIntact();
  const std::vector<uint8_t> after = world.Bytes();
  const std::vector<float> scores_after = pool_scores.values();
  const int64_t page = kv.page_bytes();
  for (int64_t i = 0; i < kv.num_pages; ++i) {
    int64_t source = i;
    for (const PageCopy& copy : input.page_copies) source = copy.to == i ? copy.from : source;
    EXPECT_TRUE(std::equal(&after[i * page], &after[i * page] + page, &before[source * page])) << i;
    const auto* got = &scores_after[i * scores_a_page];
    EXPECT_TRUE(std::equal(got, got + scores_a_page, &scores[source * scores_a_page])) << i;
  }
  backend_->Begin(input, kv, nullptr);  // without scores
  EXPECT_EQ(pool_scores.values(), scores_after);
}

TEST_P(ElementwiseTest, BeginWritesThePageTable) {
  KvWorld world(*backend_, {DType::kF16, 64, 16, 4, 2, 1, {{200, 1}, {30, 1}}}, 27);
  const KvView& kv = world.kv();
  const std::vector<int32_t> before(kv.page_table, kv.page_table + kv.num_pages);
  std::vector<int32_t> expected = before;
  StepInput input;
  input.page_writes = {{3, 100}, {static_cast<int32_t>(kv.Place(2, 0)) + 1, 7}};
  for (const PageWrite& write : input.page_writes) expected[write.place] = write.page;
  const Step& step = backend_->Begin(input, kv, nullptr);
  EXPECT_EQ(std::vector<int32_t>(step.kv.page_table, step.kv.page_table + kv.num_pages), expected);
}

TEST_P(ElementwiseTest, GatherRows) {
  const std::vector<float> values = Random(28).Normals(10 * 33);
  StepInput input;
  input.tokens.assign(10, 0);
  input.logit_rows = {0, 3, 4, 9};
  const Guarded in(*backend_, {10, 33}, values), out(*backend_, {4, 33});
  const Step& step = backend_->Begin(input, {}, nullptr);
  EXPECT_EQ(step.num_tokens, 10);
  EXPECT_EQ(step.num_logit_rows, 4);
  backend_->GatherRows({&step, in.view(), out.view()});
  out.ExpectGuardsIntact();
  const std::vector<float> got = out.values();
  for (size_t i = 0; i < got.size(); ++i) {
    EXPECT_EQ(got[i], values[input.logit_rows[i / 33] * 33 + i % 33]);
  }
}

// What a slot drew, whichever row of the logits it drew from, takes the place of kLastDrawn.
TEST_P(ElementwiseTest, LaterStepsFindWhatWasDrawn) {
  std::vector<float> logits(3 * 20);
  const int likeliest[] = {4, 19, 0};
  for (int row = 0; row < 3; ++row) logits[row * 20 + likeliest[row]] = 5;
  const Guarded in(*backend_, {3, 20}, logits);
  SamplingInput sampling;
  sampling.rows = {{.logit_row = 2, .slot = 7}, {.logit_row = 0, .slot = 1}};
  EXPECT_EQ(backend_->Wait(backend_->Sample(in.view(), sampling)).tokens,
            (std::vector<int32_t>{0, 4}));
  sampling.rows = {{.logit_row = 1, .slot = 2}};
  EXPECT_EQ(backend_->Wait(backend_->Sample(in.view(), sampling)).tokens, std::vector<int32_t>{19});
  StepInput input;
  input.tokens = {StepInput::kLastDrawn, StepInput::kLastDrawn, 3, StepInput::kLastDrawn, 11};
  input.slots = {1, 2, 2, 7, 1};
  const Step& step = backend_->Begin(input, {}, nullptr);
  EXPECT_EQ(std::vector<int32_t>(step.tokens, step.tokens + step.num_tokens),
            (std::vector<int32_t>{4, 19, 3, 0, 11}));
}

INSTANTIATE_TEST_SUITE_P(Backends, ElementwiseTest, testing::ValuesIn(TestedBackends()),
                         [](const auto& c) { return c.param.name; });

}  // namespace
}  // namespace tangram::ops
