#include "model/npz.h"

#include <gtest/gtest.h>

#include "support/npz_builder.h"

namespace tangram {
namespace {

Error ErrorOf(std::string_view bytes) {
  const auto file = NpzFile::Parse(ToBuffer(bytes), "file.npz");
  EXPECT_FALSE(file) << "taken for good";
  return file ? Error{} : file.error();
}

NpzBuilder TwoArrays(bool deflate) {
  NpzBuilder builder;
  builder.deflate = deflate;
  builder.Add("ratios", "<f4", "(2, 3)", std::vector<float>{1, 2, 3, 4, 5, 6.5});
  builder.Add("ids", "<i8", "(2,)", std::vector<int64_t>{-7, 1ll << 40});
  return builder;
}

TEST(Npz, ReadsStoredAndDeflatedArraysOfEveryType) {
  for (const bool deflate : {false, true}) {
    NpzBuilder builder = TwoArrays(deflate);
    builder.Add("doubles", "<f8", "()", std::vector<double>{0.25});
    builder.Add("ints", "<i4", "(1, 1)", std::vector<int32_t>{-3});
    builder.Add("bytes", "|u1", "(2,)", std::string_view("\xff{"));
    builder.Add("none", "<f4", "(0, 5)", std::string_view());
    builder.AddMember("readme.txt", "is skipped");
    const auto file = NpzFile::Parse(ToBuffer(builder.Build()), "file.npz");
    ASSERT_TRUE(file) << file.error().message;
    EXPECT_EQ(file->Find("ratios")->shape, (std::vector<int64_t>{2, 3}));
    EXPECT_EQ(file->Find("ratios")->Values(), (std::vector<double>{1, 2, 3, 4, 5, 6.5}));
    EXPECT_EQ(file->Find("ids")->Values(), (std::vector<double>{-7, double(1ll << 40)}));
    EXPECT_EQ(file->Find("doubles")->Values(), std::vector<double>{0.25});
    EXPECT_EQ(file->Find("ints")->Values(), std::vector<double>{-3});
    EXPECT_EQ(file->Find("bytes")->Values(), (std::vector<double>{255, '{'}));
    EXPECT_TRUE(file->Find("none")->Values().empty());
    EXPECT_EQ(file->Find("readme.txt"), nullptr);
    EXPECT_EQ(file->Find("other"), nullptr);
  }
}

TEST(Npz, EveryPrefixIsRefusedWithTheFilesName) {
  for (const bool deflate : {false, true}) {
    const std::string whole = TwoArrays(deflate).Build();
    for (size_t size = 0; size < whole.size(); ++size) {
      EXPECT_TRUE(ErrorOf(std::string_view(whole).substr(0, size)).message.starts_with("file.npz"));
    }
  }
}

// A flipped bit may fall where nothing reads (dates, unused fields), but never beyond the file.
TEST(Npz, FlippedBitsAreSurvived) {
  for (const bool deflate : {false, true}) {
    const std::string whole = TwoArrays(deflate).Build();
    size_t refused = 0;
    for (size_t bit = 0; bit < whole.size() * 8; ++bit) {
      std::string broken = whole;
      broken[bit / 8] = static_cast<char>(broken[bit / 8] ^ (1 << bit % 8));
      refused += NpzFile::Parse(ToBuffer(broken), "file.npz") ? 0 : 1;
    }
    EXPECT_GT(refused, whole.size() * 8 / 2);
  }
}

TEST(Npz, WhatNumpyDoesNotWriteIsRefused) {
  const auto with_header = [](std::string_view header) {
    std::string bytes("\x93NUMPY\x01\x00", 8);
    bytes += static_cast<char>(header.size());
    bytes += '\0';
    return NpzBuilder().AddMember("a.npy", bytes + std::string(header) + "1234").Build();
  };
  EXPECT_TRUE(NpzFile::Parse(
      ToBuffer(with_header("{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }\n")), "f"));
  for (const char* header :
       {"", "{", "{'descr'", "{'descr': '<f4', 'fortran_order': False, 'shape': (1,)",
        "{'descr': '<f4', 'fortran_order': False}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1,), 'more': 1}",
        "{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (1,)}",
        "{'descr': '<f4', 'fortran_order': Maybe, 'shape': (1,)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1,)} x",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (2,)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1,1,1,1,1,1,1,1,1,1,1)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (4611686018427387904, 4)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999,)}",
        "{'descr': '<f4', 'fortran_order': True, 'shape': (1,)}",
        "{'descr': '|O', 'fortran_order': False, 'shape': (1,)}",
        "{'descr': '>f4', 'fortran_order': False, 'shape': (1,)}"}) {
    EXPECT_EQ(ErrorOf(with_header(header)).kind, ErrorKind::kUnsupported) << header;
  }
  NpzBuilder twice;
  twice.Add("a", "|u1", "(1,)", std::string_view("x"))
      .Add("a", "|u1", "(1,)", std::string_view("y"));
  EXPECT_EQ(ErrorOf(twice.Build()).kind, ErrorKind::kUnsupported);
}

// 40 MiB of zeros deflate to 40 KiB, and twice that is beyond what is inflated.
TEST(Npz, BombsAreNotInflated) {
  NpzBuilder bomb;
  bomb.deflate = true;
  const std::string zeros(40u << 20, '\0');
  bomb.AddMember("a.npy", zeros).AddMember("b.npy", zeros);
  EXPECT_NE(ErrorOf(bomb.Build()).message.find("too large"), std::string::npos);
}

}  // namespace
}  // namespace tangram
