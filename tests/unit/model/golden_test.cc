// Tiny random models against the logits of Hugging Face transformers (tools/make_model_golden.py).

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

#include "model/safetensors.h"
#include "support/model_session.h"

namespace tangram {
namespace {

// Both sides compute in float32, in another order: the largest difference over the largest logit.
constexpr float kBound = 2e-5f;

struct Golden {
  std::vector<int32_t> tokens;
  std::vector<float> logits;  // [tokens, V]
};

std::string Folder(const std::string& name) {
  return TANGRAM_SOURCE_DIR "/tests/unit/model/golden/" + name;
}

Golden ReadGolden(const std::string& name) {
  const auto file = SafetensorsFile::Open(Folder(name) + "/expected.safetensors");
  EXPECT_TRUE(file.has_value()) << file.error().message;
  Golden golden;
  for (const StoredTensor& tensor : file->tensors()) {
    const auto* data = tensor.view.as<float>();
    if (tensor.name == "tokens") golden.tokens.assign(data, data + tensor.view.shape.count());
    if (tensor.name == "logits") golden.logits.assign(data, data + tensor.view.shape.count());
  }
  return golden;
}

std::unique_ptr<ops::Backend> MakeBackend(bool reference) {
  return reference ? ops::CreateReferenceBackend() : ops::CreateCpuBackend(2);
}

std::unique_ptr<Model> Load(const std::string& name, ops::Backend& backend) {
  LoadOptions options;
  options.max_model_len = 40;  // of the golden prompts: `dynamic` scaling has one base for it
  auto model = LoadModel(Folder(name), options, backend);
  EXPECT_TRUE(model.has_value()) << model.error().message;
  return std::move(*model);
}

std::vector<int32_t> AllRows(size_t n) {
  std::vector<int32_t> rows(n);
  std::iota(rows.begin(), rows.end(), 0);
  return rows;
}

void ExpectClose(std::span<const float> actual, std::span<const float> expected) {
  ASSERT_EQ(actual.size(), expected.size());
  float largest = 0, difference = 0;
  for (size_t i = 0; i < actual.size(); ++i) {
    ASSERT_TRUE(std::isfinite(actual[i])) << i;
    largest = std::max(largest, std::abs(expected[i]));
    difference = std::max(difference, std::abs(actual[i] - expected[i]));
  }
  EXPECT_LE(difference, kBound * largest);
  testing::Test::RecordProperty("relative_difference", std::to_string(difference / largest));
}

using Case = std::tuple<std::string, bool>;  // model, reference backend

class GoldenTest : public testing::TestWithParam<Case> {};

TEST_P(GoldenTest, LogitsOfOneStepEqualTransformers) {
  const auto [name, reference] = GetParam();
  const Golden golden = ReadGolden(name);
  auto backend = MakeBackend(reference);
  auto model = Load(name, *backend);
  ModelSession session(*model, *backend, DType::kF32, 64);
  ExpectClose(session.Step(golden.tokens, AllRows(golden.tokens.size())), golden.logits);
}

TEST_P(GoldenTest, RandomCutsAndPageShapesChangeNoBit) {
  const auto [name, reference] = GetParam();
  const Golden golden = ReadGolden(name);
  auto backend = MakeBackend(reference);
  auto model = Load(name, *backend);
  std::mt19937 random(7);
  std::vector<float> first;
  for (int round = 0; round < 4; ++round) {
    // One head a group, then two heads that share pages.
    ModelSession session(*model, *backend, DType::kF32, 64, 16, 1 + round % 2, 100 + round);
    std::vector<float> logits;
    for (size_t begin = 0; begin < golden.tokens.size();) {
      const size_t most = golden.tokens.size() - begin;
      const size_t n = std::uniform_int_distribution<size_t>(1, std::min<size_t>(most, 13))(random);
      const auto step = std::span(golden.tokens).subspan(begin, n);
      const auto part = session.Step(step, AllRows(n));
      logits.insert(logits.end(), part.begin(), part.end());
      begin += n;
    }
    ExpectClose(logits, golden.logits);
    if (round == 0) first = logits;
    EXPECT_TRUE(std::ranges::equal(logits, first)) << "round " << round;
  }
}

TEST_P(GoldenTest, OnlyTheWantedRowsComeBack) {
  const auto [name, reference] = GetParam();
  const Golden golden = ReadGolden(name);
  auto backend = MakeBackend(reference);
  auto model = Load(name, *backend);
  ModelSession session(*model, *backend, DType::kF32, 64);
  const std::vector<int32_t> rows = {0, 17, 31};
  const auto logits = session.Step(golden.tokens, rows);
  const size_t vocab = model->config().vocab_size;
  std::vector<float> expected;
  for (const int32_t row : rows) {
    const auto at = golden.logits.begin() + row * vocab;
    expected.insert(expected.end(), at, at + vocab);
  }
  ExpectClose(logits, expected);
}

INSTANTIATE_TEST_SUITE_P(Models, GoldenTest,
                         testing::Combine(testing::Values("llama31_bf16", "llama_linear_tied_f32",
                                                          "llama_dynamic_f16", "qwen2_sharded_f16",
                                                          "qwen2_yarn_tied_bf16", "qwen3_tied_bf16",
                                                          "qwen3_yarn_sharded_f32"),
                                          testing::Bool()),
                         [](const auto& param) {
                           return std::get<0>(param.param) +
                                  (std::get<1>(param.param) ? "_reference" : "_fast");
                         });

}  // namespace
}  // namespace tangram
