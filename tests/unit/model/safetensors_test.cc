#include "model/safetensors.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <random>

#include "support/gguf_builder.h"
#include "support/test_folder.h"

namespace tangram {
namespace {

std::string File(std::string_view header, size_t data_bytes) {
  const uint64_t size = header.size();
  std::string file(reinterpret_cast<const char*>(&size), sizeof(size));
  file += header;
  for (size_t i = 0; i < data_bytes; ++i) file += static_cast<char>(i);
  return file;
}

Result<SafetensorsFile> Parse(std::string_view header, size_t data_bytes) {
  return SafetensorsFile::Parse(ToBuffer(File(header, data_bytes)), "test.safetensors");
}

void ExpectError(std::string_view header, size_t data_bytes, std::string_view part) {
  const auto file = Parse(header, data_bytes);
  ASSERT_FALSE(file.has_value()) << header;
  EXPECT_EQ(file.error().kind, ErrorKind::kUnsupported);
  EXPECT_NE(file.error().message.find(part), std::string::npos) << file.error().message;
  EXPECT_NE(file.error().message.find("test.safetensors"), std::string::npos);
}

constexpr std::string_view kSample = R"({"__metadata__":{"format":"pt"},)"
                                     R"("b":{"dtype":"BF16","shape":[2,3],"data_offsets":[8,20]},)"
                                     R"("a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})";

TEST(SafetensorsTest, TensorsAreViewsIntoTheFile) {
  const auto file = Parse(kSample, 20);
  ASSERT_TRUE(file.has_value()) << file.error().message;
  ASSERT_EQ(file->tensors().size(), 2u);
  const StoredTensor &a = file->tensors()[0], &b = file->tensors()[1];
  EXPECT_EQ(a.name, "a");
  EXPECT_EQ(a.view.dtype, DType::kF32);
  EXPECT_EQ(a.view.shape, (Shape{2}));
  EXPECT_EQ(b.view.dtype, DType::kBF16);
  EXPECT_EQ(b.view.shape, (Shape{2, 3}));
  EXPECT_EQ(*b.view.as<uint8_t>(), 8);
}

TEST(SafetensorsTest, UnalignedTensorsAreCopiedToWhereTheyCanBeRead) {
  // The header's length decides where the data begins: try all remainders.
  for (int spaces = 0; spaces < 8; ++spaces) {
    const auto file = Parse(std::string(kSample) + std::string(spaces, ' '), 20);
    ASSERT_TRUE(file.has_value()) << file.error().message;
    for (const StoredTensor& tensor : file->tensors()) {
      EXPECT_EQ(reinterpret_cast<uintptr_t>(tensor.view.data) % BlockBytes(tensor.view.dtype), 0u);
    }
    EXPECT_EQ(*file->tensors()[1].view.as<uint8_t>(), 8);
  }
}

TEST(SafetensorsTest, TypesThatAreNotComputedWithAreNamedWithoutData) {
  const auto file = Parse(R"({"i":{"dtype":"I64","shape":[1],"data_offsets":[0,8]}})", 8);
  ASSERT_TRUE(file.has_value()) << file.error().message;
  EXPECT_EQ(file->tensors()[0].type, "I64");
  EXPECT_TRUE(file->tensors()[0].view.empty());
}

TEST(SafetensorsTest, RefusesBrokenHeaders) {
  ExpectError("not json", 0, "not a JSON object");
  ExpectError("[]", 0, "not a JSON object");
  ExpectError(R"({"a":1})", 0, "lacks");
  ExpectError(R"({"a":{"dtype":"F32","shape":[1]}})", 4, "lacks");
  ExpectError(R"({"a":{"dtype":7,"shape":[1],"data_offsets":[0,4]}})", 4, "dtype");
  ExpectError(R"({"a":{"dtype":"F31","shape":[1],"data_offsets":[0,4]}})", 4, "unknown dtype");
  ExpectError(R"({"a":{"dtype":"F32","shape":1,"data_offsets":[0,4]}})", 4, "shape");
  ExpectError(R"({"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}})", 4, "shape");
  ExpectError(R"({"a":{"dtype":"F32","shape":[1.5],"data_offsets":[0,4]}})", 4, "shape");
  ExpectError(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0]}})", 4, "pair");
  ExpectError(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}})", 4, "range");
  ExpectError(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,8]}})", 8, "does not fit");
  ExpectError(R"({"a":{"dtype":"F32","shape":[4294967296,4294967296,4],"data_offsets":[0,4]}})", 4,
              "overflows");
}

TEST(SafetensorsTest, RefusesDataThatIsShortHoledOrShared) {
  ExpectError(kSample, 19, "beyond the file");
  ExpectError(kSample, 21, "after the last");
  ExpectError(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},)"
              R"("b":{"dtype":"U8","shape":[4],"data_offsets":[3,7]}})",
              7, "overlaps");
  ExpectError(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[1,5]}})", 5, "hole");
}

TEST(SafetensorsTest, RefusesHeadersLongerThanTheFile) {
  std::string file = File(kSample, 20);
  file[7] = '\x7f';
  EXPECT_FALSE(SafetensorsFile::Parse(ToBuffer(file), "f").has_value());
  EXPECT_FALSE(SafetensorsFile::Parse(ToBuffer("1234567"), "f").has_value());
}

TEST(SafetensorsTest, CorruptedBytesNeverReachBeyondTheFile) {
  const std::string whole = File(kSample, 20);
  std::mt19937 random(3);
  for (int round = 0; round < 20000; ++round) {
    std::string bytes = whole;
    for (int i = 0; i < 2; ++i) bytes[random() % bytes.size()] = static_cast<char>(random());
    const auto file = SafetensorsFile::Parse(ToBuffer(bytes), "f");
    if (!file) continue;
    size_t total = 0;
    for (const auto& tensor : file->tensors()) total += tensor.view.bytes();
    EXPECT_LE(total, bytes.size());
  }
}

class SafetensorsFolderTest : public testing::Test {
 protected:
  void Write(const std::string& name, std::string_view text) {
    std::ofstream(folder_ / name, std::ios::binary) << text;
  }
  TestFolder own_;
  const std::filesystem::path folder_ = own_.path();
};

TEST_F(SafetensorsFolderTest, SaysThatThereAreNoWeights) {
  const auto paths = FindSafetensors(folder_);
  ASSERT_FALSE(paths.has_value());
  EXPECT_NE(paths.error().message.find("model.safetensors.index.json"), std::string::npos);
}

TEST_F(SafetensorsFolderTest, NamesEachShardOnce) {
  Write("model.safetensors.index.json",
        R"({"weight_map":{"a":"2.safetensors","b":"1.safetensors","c":"2.safetensors"}})");
  const auto paths = FindSafetensors(folder_);
  ASSERT_TRUE(paths.has_value()) << paths.error().message;
  EXPECT_EQ(*paths,
            (std::vector<std::string>{folder_ / "1.safetensors", folder_ / "2.safetensors"}));
}

TEST_F(SafetensorsFolderTest, ShardsDoNotLeaveTheFolder) {
  for (const auto* name : {"../1.safetensors", "/etc/passwd", "a/b", ""}) {
    Write("model.safetensors.index.json", std::string(R"({"weight_map":{"a":")") + name + R"("}})");
    EXPECT_FALSE(FindSafetensors(folder_).has_value()) << name;
  }
}

}  // namespace
}  // namespace tangram
