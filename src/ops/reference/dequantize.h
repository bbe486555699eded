#pragma once

#include <cstdint>

#include "tensor/dtype.h"

namespace tangram::ops {

// Whether weights of this type can be read: F32, F16, BF16 and GGUF's block types.
bool IsWeightType(DType type);

// Widens `count` stored elements, whole blocks, to f32. Block layouts: GGUF, ggml-common.h.
void Dequantize(DType type, const void* stored, int64_t count, float* out);

// The 6-bit scale and minimum of sub-block `i` (0..7) of a Q4_K or Q5_K block, from its 12 bytes.
struct KScale {
  int scale, minimum;
};
KScale UnpackKScale(const uint8_t scales[12], int i);

}  // namespace tangram::ops
