#pragma once

#include <algorithm>
#include <cstdint>

#include "ops/kv_view.h"
#include "tensor/float16.h"

namespace tangram::ops {

// Element `index` of a pool in host memory, as f32. The pool is F32, F16 or BF16.
inline float LoadKv(const KvPoolView& pool, int64_t index) {
  if (pool.dtype == DType::kF32) return static_cast<const float*>(pool.data)[index];
  const uint16_t bits = static_cast<const uint16_t*>(pool.data)[index];
  return pool.dtype == DType::kF16 ? HalfToFloat(bits) : BFloatToFloat(bits);
}

// Rounds to the pool's type. Values beyond F16's range become its largest: an infinity would turn
// the whole row into NaN.
inline void StoreKv(const KvPoolView& pool, int64_t index, float value) {
  if (pool.dtype == DType::kF32) {
    static_cast<float*>(pool.data)[index] = value;
  } else if (pool.dtype == DType::kF16) {
    static_cast<uint16_t*>(pool.data)[index] = FloatToHalf(std::clamp(value, -65504.0f, 65504.0f));
  } else {
    static_cast<uint16_t*>(pool.data)[index] = FloatToBFloat(value);
  }
}

}  // namespace tangram::ops
