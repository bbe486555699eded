#include "ops/reference/dequantize.h"

#include <cstring>

#include "base/check.h"
#include "tensor/float16.h"

namespace tangram::ops {
namespace {

float ReadHalf(const uint8_t* p) {
  uint16_t bits;
  std::memcpy(&bits, p, sizeof(bits));
  return HalfToFloat(bits);
}

void DequantizeQ8_0(const uint8_t* block, float* out) {
  const float d = ReadHalf(block);
  for (int i = 0; i < 32; ++i) out[i] = d * static_cast<int8_t>(block[2 + i]);
}

void DequantizeQ4_0(const uint8_t* block, float* out) {
  const float d = ReadHalf(block);
  for (int i = 0; i < 16; ++i) {
    out[i] = d * ((block[2 + i] & 15) - 8);
    out[i + 16] = d * ((block[2 + i] >> 4) - 8);
  }
}

void DequantizeQ4_1(const uint8_t* block, float* out) {
  const float d = ReadHalf(block), m = ReadHalf(block + 2);
  for (int i = 0; i < 16; ++i) {
    out[i] = d * (block[4 + i] & 15) + m;
    out[i + 16] = d * (block[4 + i] >> 4) + m;
  }
}

void DequantizeQ4_K(const uint8_t* block, float* out) {
  const float d = ReadHalf(block), dmin = ReadHalf(block + 2);
  const uint8_t* q = block + 16;
  for (int i = 0; i < 256; ++i) {
    const KScale s = UnpackKScale(block + 4, i / 32);
    const int byte = q[i / 64 * 32 + i % 32];
    const int value = i / 32 % 2 == 0 ? byte & 15 : byte >> 4;
    out[i] = d * s.scale * value - dmin * s.minimum;
  }
}

void DequantizeQ5_K(const uint8_t* block, float* out) {
  const float d = ReadHalf(block), dmin = ReadHalf(block + 2);
  const uint8_t* high = block + 16;
  const uint8_t* q = block + 48;
  for (int i = 0; i < 256; ++i) {
    const KScale s = UnpackKScale(block + 4, i / 32);
    const int byte = q[i / 64 * 32 + i % 32];
    const int low = i / 32 % 2 == 0 ? byte & 15 : byte >> 4;
    const int value = low + 16 * (high[i % 32] >> (i / 32) & 1);
    out[i] = d * s.scale * value - dmin * s.minimum;
  }
}

void DequantizeQ6_K(const uint8_t* block, float* out) {
  const uint8_t* high = block + 128;
  const auto* scales = reinterpret_cast<const int8_t*>(block + 192);
  const float d = ReadHalf(block + 208);
  for (int i = 0; i < 256; ++i) {
    const int half = i / 128, quarter = i % 128 / 32, j = i % 32;
    const int byte = block[half * 64 + quarter % 2 * 32 + j];
    const int low = quarter < 2 ? byte & 15 : byte >> 4;
    const int value = low + 16 * (high[half * 32 + j] >> (2 * quarter) & 3) - 32;
    const int sub = i / 16;
    out[i] = d * scales[sub] * value;
  }
}

template <void (*kBlock)(const uint8_t*, float*)>
void ForEachBlock(DType type, const void* stored, int64_t count, float* out) {
  const auto* block = static_cast<const uint8_t*>(stored);
  for (int64_t i = 0; i < count; i += BlockSize(type), block += BlockBytes(type)) {
    kBlock(block, out + i);
  }
}

}  // namespace

bool IsWeightType(DType type) {
  return IsBlockQuantized(type) || type == DType::kF32 || type == DType::kF16 ||
         type == DType::kBF16;
}

KScale UnpackKScale(const uint8_t scales[12], int i) {
  if (i < 4) return {scales[i] & 63, scales[i + 4] & 63};
  return {(scales[i + 4] & 15) | (scales[i - 4] >> 6 << 4),
          (scales[i + 4] >> 4) | (scales[i] >> 6 << 4)};
}

void Dequantize(DType type, const void* stored, int64_t count, float* out) {
  const auto* half = static_cast<const uint16_t*>(stored);
  switch (type) {
    case DType::kF32:
      std::memcpy(out, stored, BytesFor(type, count));
      return;
    case DType::kF16:
      for (int64_t i = 0; i < count; ++i) out[i] = HalfToFloat(half[i]);
      return;
    case DType::kBF16:
      for (int64_t i = 0; i < count; ++i) out[i] = BFloatToFloat(half[i]);
      return;
    case DType::kQ8_0:
      return ForEachBlock<DequantizeQ8_0>(type, stored, count, out);
    case DType::kQ4_0:
      return ForEachBlock<DequantizeQ4_0>(type, stored, count, out);
    case DType::kQ4_1:
      return ForEachBlock<DequantizeQ4_1>(type, stored, count, out);
    case DType::kQ4_K:
      return ForEachBlock<DequantizeQ4_K>(type, stored, count, out);
    case DType::kQ5_K:
      return ForEachBlock<DequantizeQ5_K>(type, stored, count, out);
    case DType::kQ6_K:
      return ForEachBlock<DequantizeQ6_K>(type, stored, count, out);
    default:
      break;
  }
  TANGRAM_CHECK(false, "weights of type {}", DTypeName(type));
}

}  // namespace tangram::ops
