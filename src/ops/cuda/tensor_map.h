#pragma once

#include <cuda.h>

#include <array>
#include <cstdint>

namespace tangram::ops::cuda {

// A tensor map of the copy engine over bf16 or byte elements, `rank` dimensions, innermost first.
// `strides` are the byte strides of dimensions 1.. (multiples of 16); boxes are 128-byte swizzled,
// so the innermost box is 128 bytes at most. What lies outside the tensor reads as zero.
struct TensorMapSpec {
  const void* base = nullptr;
  CUtensorMapDataType type = CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
  int rank = 2;
  std::array<cuuint64_t, 5> dims{};
  std::array<cuuint64_t, 4> strides{};
  std::array<cuuint32_t, 5> box{};
  CUtensorMapSwizzle swizzle = CU_TENSOR_MAP_SWIZZLE_128B;
  CUtensorMapL2promotion promotion = CU_TENSOR_MAP_L2_PROMOTION_L2_256B;
};

// Encodes `spec`; aborts with its values if the driver refuses them.
CUtensorMap EncodeTensorMap(const TensorMapSpec& spec);

}  // namespace tangram::ops::cuda
