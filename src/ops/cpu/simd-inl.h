// Vector types and loads that all kernels use. Included once for each target.
#if defined(TANGRAM_OPS_CPU_SIMD_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TANGRAM_OPS_CPU_SIMD_INL_H_
#undef TANGRAM_OPS_CPU_SIMD_INL_H_
#else
#define TANGRAM_OPS_CPU_SIMD_INL_H_
#endif

#include <hwy/cache_control.h>
#include <hwy/highway.h>

#include <cstdint>
#include <cstring>

HWY_BEFORE_NAMESPACE();
namespace tangram::ops {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// At most 16 lanes of f32: a tile of packed weights.
using DF = hn::CappedTag<float, 16>;
using DI32 = hn::RebindToSigned<DF>;
using DU32 = hn::RebindToUnsigned<DF>;
using DI16 = hn::Repartition<int16_t, DI32>;
using VF = hn::Vec<DF>;
using VI32 = hn::Vec<DI32>;
using VI16 = hn::Vec<DI16>;
inline constexpr int kLanes = HWY_MIN(HWY_MAX_BYTES / 4, 16);

// kLanes stored values, widened.
HWY_INLINE VF LoadAsFloat(const float* p) { return hn::LoadU(DF(), p); }
HWY_INLINE VF LoadAsFloat(const hwy::float16_t* p) {
  return hn::PromoteTo(DF(), hn::LoadU(hn::Rebind<hwy::float16_t, DF>(), p));
}
HWY_INLINE VF LoadAsFloat(const hwy::bfloat16_t* p) {
  return hn::PromoteTo(DF(), hn::LoadU(hn::Rebind<hwy::bfloat16_t, DF>(), p));
}

// Adds the products of 16-bit neighbours to 32-bit sums: sum[i] + a[2i]*b[2i] + a[2i+1]*b[2i+1].
HWY_INLINE VI32 DotPairs(VI16 a, VI16 b, VI32 sum) {
#if HWY_TARGET == HWY_AVX3_DL
  // Not the intrinsic: Highway 1.0 enables "avxvnni" for this target where it means "avx512vnni".
  asm("vpdpwssd %2, %1, %0" : "+v"(sum.raw) : "v"(a.raw), "v"(b.raw));
  return sum;
#elif HWY_TARGET == HWY_AVX2
  sum = hn::Add(sum, VI32{_mm256_madd_epi16(a.raw, b.raw)});
  // Keeps the order of the additions: GCC would collect dozens of products, in memory, and add them
  // in a tree.
  asm("" : "+x"(sum.raw));
  return sum;
#else
  const DI32 d32;
  const VI32 a32 = hn::BitCast(d32, a), b32 = hn::BitCast(d32, b);
  const auto low = [](VI32 v) HWY_ATTR { return hn::ShiftRight<16>(hn::ShiftLeft<16>(v)); };
  sum = hn::Add(sum, hn::Mul(low(a32), low(b32)));
  return hn::Add(sum, hn::Mul(hn::ShiftRight<16>(a32), hn::ShiftRight<16>(b32)));
#endif
}

}  // namespace HWY_NAMESPACE
}  // namespace tangram::ops
HWY_AFTER_NAMESPACE();

#endif
