#pragma once

#include <algorithm>
#include <cstdint>

#include "ops/kv_view.h"
#include "tensor/float16.h"

namespace tangram::ops {

// Element `index` of a pool in host memory, as f32. The pool is F32, F16 or BF16.
inline float LoadKv(const KvView& kv, int64_t index) {
  if (kv.dtype == DType::kF32) return static_cast<const float*>(kv.pool)[index];
  const uint16_t bits = static_cast<const uint16_t*>(kv.pool)[index];
  return kv.dtype == DType::kF16 ? HalfToFloat(bits) : BFloatToFloat(bits);
}

// Rounds to the pool's type. Values beyond F16's range become its largest: an infinity would turn
// the whole row into NaN.
inline void StoreKv(const KvView& kv, int64_t index, float value) {
  if (kv.dtype == DType::kF32) {
    static_cast<float*>(kv.pool)[index] = value;
  } else if (kv.dtype == DType::kF16) {
    static_cast<uint16_t*>(kv.pool)[index] = FloatToHalf(std::clamp(value, -65504.0f, 65504.0f));
  } else {
    static_cast<uint16_t*>(kv.pool)[index] = FloatToBFloat(value);
  }
}

}  // namespace tangram::ops
