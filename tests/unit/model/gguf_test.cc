#include "model/gguf.h"

#include <gtest/gtest.h>

#include <random>

#include "support/gguf_builder.h"

namespace tangram {
namespace {

using namespace std::string_literals;

GgufBuilder Sample() {
  GgufBuilder builder;
  builder.Add("general.architecture", "llama"s)
      .Add("a.u32", uint32_t{7})
      .Add("a.u64", ~uint64_t{0})
      .Add("a.i32", int32_t{-3})
      .Add("a.f32", 0.5f)
      .Add("a.f64", 0.25)
      .Add("a.bool", true)
      .AddArray("a.strings", std::vector{"one"s, ""s, "three"s})
      .AddArray("a.ints", std::vector<int32_t>{1, -2})
      .AddTensor("f", {3, 2}, 0, std::string(24, 'x'))
      .AddTensor("q", {64, 2}, 3, std::string(80, 'y'));
  return builder;
}

Result<GgufFile> Parse(const GgufBuilder& builder) {
  return GgufFile::Parse(ToBuffer(builder.Build()), "test.gguf");
}

void ExpectError(const Result<GgufFile>& file, std::string_view part) {
  ASSERT_FALSE(file.has_value()) << "expected: " << part;
  EXPECT_EQ(file.error().kind, ErrorKind::kUnsupported);
  EXPECT_NE(file.error().message.find(part), std::string::npos) << file.error().message;
  EXPECT_NE(file.error().message.find("test.gguf"), std::string::npos) << file.error().message;
}

TEST(GgufTest, ReadsValuesOfEveryKind) {
  const auto file = Parse(Sample());
  ASSERT_TRUE(file.has_value()) << file.error().message;
  EXPECT_EQ(file->String("general.architecture"), "llama");
  EXPECT_EQ(file->Int("a.u32"), 7);
  EXPECT_EQ(file->Int("a.i32"), -3);
  EXPECT_EQ(file->Int("a.u64"), std::nullopt);  // beyond int64
  EXPECT_EQ(file->Float("a.f32"), 0.5);
  EXPECT_EQ(file->Float("a.f64"), 0.25);
  EXPECT_EQ(file->Float("a.u32"), 7.0);
  EXPECT_EQ(file->Bool("a.bool"), true);
  EXPECT_EQ(file->StringArray("a.strings"), (std::vector<std::string_view>{"one", "", "three"}));
  EXPECT_EQ(file->IntArray("a.ints"), (std::vector<int64_t>{1, -2}));
  EXPECT_EQ(file->keys().size(), 9u);
}

TEST(GgufTest, ValuesOfAnotherKindAreNone) {
  const auto file = Parse(Sample());
  ASSERT_TRUE(file.has_value());
  EXPECT_EQ(file->Int("a.f32"), std::nullopt);
  EXPECT_EQ(file->Int("a.strings"), std::nullopt);
  EXPECT_EQ(file->String("a.u32"), std::nullopt);
  EXPECT_EQ(file->StringArray("a.ints"), std::nullopt);
  EXPECT_EQ(file->IntArray("a.strings"), std::nullopt);
  EXPECT_EQ(file->Bool("missing"), std::nullopt);
}

TEST(GgufTest, TensorsAreRowMajorViewsIntoTheFile) {
  const auto file = Parse(Sample());
  ASSERT_TRUE(file.has_value());
  ASSERT_EQ(file->tensors().size(), 2u);
  EXPECT_EQ(file->tensors()[0].view.shape, (Shape{2, 3}));
  const TensorView q = file->tensors()[1].view;
  EXPECT_EQ(q.dtype, DType::kQ4_1);
  EXPECT_EQ(q.shape, (Shape{2, 64}));
  EXPECT_EQ(std::string(q.as<char>(), q.bytes()), std::string(80, 'y'));
}

TEST(GgufTest, TypesThatAreNotComputedWithAreNamedWithoutData) {
  const auto file = Parse(GgufBuilder().AddTensor("t", {32}, 6, std::string(22, 'x')));
  ASSERT_TRUE(file.has_value()) << file.error().message;
  EXPECT_EQ(file->tensors()[0].type, "Q5_0");
  EXPECT_TRUE(file->tensors()[0].view.empty());
}

TEST(GgufTest, RefusesOtherVersionsAndByteOrders) {
  GgufBuilder builder = Sample();
  builder.version = 1;
  ExpectError(Parse(builder), "version 1");
  builder.version = 3u << 24;
  ExpectError(Parse(builder), "big-endian");
  builder.version = 2;
  EXPECT_TRUE(Parse(builder).has_value());
  ExpectError(GgufFile::Parse(ToBuffer("PK\3\4 and more than that"), "test.gguf"), "not a GGUF");
}

TEST(GgufTest, RefusesCountsBeyondTheFile) {
  GgufBuilder builder = Sample();
  builder.extra_values = int64_t{1} << 60;
  EXPECT_FALSE(Parse(builder).has_value());
  builder.extra_values = 0;
  builder.extra_tensors = int64_t{1} << 60;
  EXPECT_FALSE(Parse(builder).has_value());
}

TEST(GgufTest, RefusesImpossibleTensors) {
  const auto tensor = [](std::vector<uint64_t> dims, uint32_t type, uint64_t offset) {
    return Parse(GgufBuilder().AddTensorInfo("t", dims, type, offset));
  };
  ExpectError(tensor({}, 0, 0), "dimensions");
  ExpectError(tensor({1, 1, 1, 1, 1}, 0, 0), "dimensions");
  ExpectError(tensor({1, 0}, 0, 0), "impossible size");
  ExpectError(tensor({uint64_t{1} << 33, uint64_t{1} << 33}, 0, 0), "impossible size");
  ExpectError(tensor({33}, 3, 0), "rows of 33");
  ExpectError(tensor({32}, 99, 0), "ggml type 99");
  ExpectError(tensor({32}, 0, 16), "not aligned");
  ExpectError(tensor({32}, 0, 0), "beyond the file");
  ExpectError(tensor({32}, 0, ~uint64_t{31}), "beyond the file");
}

TEST(GgufTest, RefusesOverlapsAndRepetitions) {
  GgufBuilder builder;
  builder.AddTensor("a", {16}, 0, std::string(64, 'x')).AddTensorInfo("b", {8}, 0, 32);
  ExpectError(Parse(builder), "overlaps");
  ExpectError(Parse(GgufBuilder().Add("k", 1.0f).Add("k", 2.0f)), "twice");
}

TEST(GgufTest, RefusesAlignmentsThatAreNone) {
  for (const uint32_t alignment : {0u, 1u, 24u, 1u << 31}) {
    ExpectError(Parse(Sample().Add("general.alignment", alignment)), "general.alignment");
  }
  ExpectError(Parse(Sample().Add("general.alignment", "32"s)), "general.alignment");
}

TEST(GgufTest, EveryPrefixIsRefusedOrWhole) {
  const std::string whole = Sample().Build();
  for (size_t n = 1; n < whole.size(); ++n) {
    EXPECT_FALSE(GgufFile::Parse(ToBuffer(whole.substr(0, n)), "test.gguf").has_value()) << n;
  }
}

// Whatever the bytes, the parser answers, and what it accepts can be read whole.
TEST(GgufTest, CorruptedBytesNeverReachBeyondTheFile) {
  const std::string whole = Sample().Build();
  std::mt19937 random(3);
  for (int round = 0; round < 20000; ++round) {
    std::string bytes = whole;
    for (int i = 0; i < 3; ++i) {
      const int bit = static_cast<int>(random() % 8);
      bytes[4 + random() % (bytes.size() - 4)] ^= static_cast<char>(1 << bit);
    }
    const auto file = GgufFile::Parse(ToBuffer(bytes), "test.gguf");
    if (!file) continue;
    for (const auto key : file->keys()) {
      const auto strings = file->StringArray(key);
      if (strings) {
        for (const auto string : *strings) EXPECT_LE(string.size(), bytes.size());
      }
      file->IntArray(key);
    }
    for (const auto& tensor : file->tensors()) {
      if (tensor.view.empty()) continue;
      const auto* data = tensor.view.as<char>();
      EXPECT_GE(data, file->owner().data());
      EXPECT_LE(data + tensor.view.bytes(),
                static_cast<char*>(file->owner().data()) + file->owner().bytes());
    }
  }
}

}  // namespace
}  // namespace tangram
