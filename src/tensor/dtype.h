#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace tangram {

// Element types as stored. The Qx_y types are GGUF's block formats: a block of `BlockSize`
// consecutive elements of a row takes `BlockBytes`.
enum class DType : uint8_t {
  kF32,
  kF16,
  kBF16,
  kF8E4M3,
  kI32,
  kI8,
  kQ8_0,
  kQ4_0,
  kQ4_1,
  kQ4_K,
  kQ5_K,
  kQ6_K,
};

constexpr int64_t BlockSize(DType type) {
  switch (type) {
    case DType::kQ8_0:
    case DType::kQ4_0:
    case DType::kQ4_1:
      return 32;
    case DType::kQ4_K:
    case DType::kQ5_K:
    case DType::kQ6_K:
      return 256;
    default:
      return 1;
  }
}

constexpr int64_t BlockBytes(DType type) {
  switch (type) {
    case DType::kF32:
    case DType::kI32:
      return 4;
    case DType::kF16:
    case DType::kBF16:
      return 2;
    case DType::kF8E4M3:
    case DType::kI8:
      return 1;
    case DType::kQ8_0:
      return 34;  // f16 scale, 32 x i8
    case DType::kQ4_0:
      return 18;  // f16 scale, 32 x 4 bits
    case DType::kQ4_1:
      return 20;  // f16 scale, f16 minimum, 32 x 4 bits
    case DType::kQ4_K:
      return 144;  // f16 scale, f16 minimum, 12 bytes of scales, 256 x 4 bits
    case DType::kQ5_K:
      return 176;  // the same and 256 high bits
    case DType::kQ6_K:
      return 210;  // 256 x (4 + 2) bits, 16 x i8 scales, f16 scale
  }
  return 0;
}

// Bytes of `count` elements; count is a multiple of the block size.
constexpr size_t BytesFor(DType type, int64_t count) {
  return static_cast<size_t>(count / BlockSize(type) * BlockBytes(type));
}

constexpr bool IsBlockQuantized(DType type) { return BlockSize(type) > 1; }

constexpr std::string_view DTypeName(DType type) {
  switch (type) {
    case DType::kF32:
      return "f32";
    case DType::kF16:
      return "f16";
    case DType::kBF16:
      return "bf16";
    case DType::kF8E4M3:
      return "fp8_e4m3";
    case DType::kI32:
      return "i32";
    case DType::kI8:
      return "i8";
    case DType::kQ8_0:
      return "q8_0";
    case DType::kQ4_0:
      return "q4_0";
    case DType::kQ4_1:
      return "q4_1";
    case DType::kQ4_K:
      return "q4_k";
    case DType::kQ5_K:
      return "q5_k";
    case DType::kQ6_K:
      return "q6_k";
  }
  return "?";
}

}  // namespace tangram
