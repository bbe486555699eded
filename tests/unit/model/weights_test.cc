#include "model/weights.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <string_view>

#include "model/model.h"
#include "model/rope.h"
#include "support/test_folder.h"
#include "tensor/float16.h"

namespace tangram {
namespace {

TEST(DummyWeightsTest, SeedAndNameDecideTheValues) {
  DummyWeights one(1), same(1), other(2);
  const Shape shape{33, 7};
  const auto bytes = [&](DummyWeights& source, const char* name) {
    const auto weight = source.Take(name, shape);
    return std::string(weight->view.as<char>(), weight->view.bytes());
  };
  EXPECT_EQ(bytes(one, "a.weight"), bytes(same, "a.weight"));
  EXPECT_NE(bytes(one, "a.weight"), bytes(other, "a.weight"));
  EXPECT_NE(bytes(one, "a.weight"), bytes(one, "b.weight"));
}

TEST(DummyWeightsTest, MatricesAreSmallRandomBf16AndNormsAreOnes) {
  DummyWeights source(5);
  const auto matrix = source.Take("q_proj.weight", {64, 64});
  ASSERT_TRUE(matrix.has_value());
  ASSERT_EQ(matrix->view.dtype, DType::kBF16);
  double sum = 0;
  for (int i = 0; i < 4096; ++i) {
    const float value = BFloatToFloat(matrix->view.as<uint16_t>()[i]);
    EXPECT_GE(std::abs(value), 1.0f / 64);
    EXPECT_LT(std::abs(value), 1.0f / 32);
    sum += value;
  }
  EXPECT_LT(std::abs(sum / 4096), 2e-3);  // five standard errors: both signs alike
  const auto norm = source.Take("input_layernorm.weight", {5});
  ASSERT_TRUE(norm.has_value());
  ASSERT_EQ(norm->view.dtype, DType::kF32);
  for (int i = 0; i < 5; ++i) EXPECT_EQ(norm->view.as<float>()[i], 1.0f);
}

TEST(DummyWeightsTest, ServeAnyConfigWithoutWeights) {
  const TestFolder own;
  const std::filesystem::path& folder = own.path();
  std::ofstream(folder / "config.json") << R"({"architectures": ["Qwen2ForCausalLM"],
      "num_hidden_layers": 2, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4,
      "num_key_value_heads": 2, "vocab_size": 50, "max_position_embeddings": 64})";
  LoadOptions options;
  options.dummy_weights = true;
  auto backend = ops::CreateReferenceBackend();
  const auto model = LoadModel(folder, options, *backend);
  ASSERT_TRUE(model.has_value()) << model.error().message;
  const size_t layer = (64 * 32 + 32 * 32 + 3 * 48 * 32) * 2 + (2 * 32 + 64) * 4;
  EXPECT_EQ((*model)->weight_bytes(), 2 * layer + 2 * 50 * 32 * 2 + 32 * 4 + 4 * 4);
  options.dummy_weights = false;
  const auto missing = LoadModel(folder, options, *backend);
  ASSERT_FALSE(missing.has_value());
  EXPECT_NE(missing.error().message.find("no model.safetensors"), std::string::npos);
}

TEST(LoadModelTest, SaysWhatAPathShouldBe) {
  auto backend = ops::CreateReferenceBackend();
  const auto model = LoadModel("/nowhere/model", {}, *backend);
  ASSERT_FALSE(model.has_value());
  EXPECT_EQ(model.error().kind, ErrorKind::kLoad);
  EXPECT_NE(model.error().message.find("/nowhere/model"), std::string::npos);
}

TEST(StoredWeightsTest, TheSameNameInTwoFilesIsRefused) {
  float value = 1;
  const std::vector<StoredTensor> tensors = {{"a", "F32", {&value, DType::kF32, {1}}}};
  StoredWeights weights("model");
  EXPECT_TRUE(weights.Add(tensors, {}).has_value());
  EXPECT_FALSE(weights.Add(tensors, {}).has_value());
}

TEST(RotaryTableTest, DynamicHasOneBaseForTheServedLength) {
  RopeConfig rope;
  rope.scaling = RopeScaling::kDynamic;
  rope.factor = 2.0;
  rope.original_max_position = 100;
  // Up to the original length nothing changes; at three times it theta grows by (2*3 -
  // 1)^(d/(d-2)).
  EXPECT_FLOAT_EQ(MakeRotaryTable(rope, 8, 50, {}).inv_freq[1], 0.1f);
  EXPECT_FLOAT_EQ(MakeRotaryTable(rope, 8, 100, {}).inv_freq[1], 0.1f);
  const double theta = 10000.0 * std::pow(5.0, 8.0 / 6.0);
  EXPECT_FLOAT_EQ(MakeRotaryTable(rope, 8, 300, {}).inv_freq[1],
                  static_cast<float>(std::pow(theta, -0.25)));
}

}  // namespace
}  // namespace tangram
