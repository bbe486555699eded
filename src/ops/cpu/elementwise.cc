#include "ops/cpu/elementwise.h"

#include <algorithm>
#include <cmath>

// Highway includes this file again for each target: the order matters.
// clang-format off
#include "ops/cpu/targets.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/cpu/elementwise.cc"
#include <hwy/foreach_target.h>
#include "ops/cpu/simd-inl.h"
#include "ops/kv_element.h"
#include <hwy/contrib/math/math-inl.h>
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace tangram::ops {
namespace HWY_NAMESPACE {

constexpr int64_t kTaskElements = 16384;  // a few microseconds: worth another thread's attention

// Calls body(row) for all rows, in tasks of at least kTaskElements.
template <class Body>
void ForRows(ThreadPool& pool, int64_t rows, int64_t width, const Body& body) {
  const int64_t rows_a_task = std::max<int64_t>(1, kTaskElements / width);
  pool.Run(static_cast<int>((rows + rows_a_task - 1) / rows_a_task), [&](int task, int) {
    const int64_t end = std::min(rows, (task + 1) * rows_a_task);
    for (int64_t row = task * rows_a_task; row < end; ++row) body(row);
  });
}

// Calls body(index, number of values) for whole vectors, then for what is left.
template <class Body>
HWY_INLINE void ForLanes(int64_t width, const Body& body) {
  int64_t i = 0;
  for (; i + kLanes <= width; i += kLanes) body(i, kLanes);
  if (i < width) body(i, static_cast<int>(width - i));
}

HWY_INLINE VF LoadPart(const float* p, int count) {
  if (HWY_LIKELY(count == kLanes)) return hn::LoadU(DF(), p);
  alignas(64) float values[kLanes] = {};
  std::copy_n(p, count, values);
  return hn::Load(DF(), values);
}

HWY_INLINE void StorePart(VF v, float* p, int count) {
  if (HWY_LIKELY(count == kLanes)) return hn::StoreU(v, DF(), p);
  alignas(64) float values[kLanes];
  hn::Store(v, DF(), values);
  std::copy_n(values, count, p);
}

// out = in / rms(in) * weight; out may be in.
HWY_INLINE void NormVector(const float* in, const float* weight, int64_t width, float epsilon,
                           float* out) {
  VF sum = hn::Zero(DF());
  ForLanes(width, [&](int64_t i, int count) HWY_ATTR {
    const VF v = LoadPart(in + i, count);
    sum = hn::MulAdd(v, v, sum);
  });
  const float mean = hn::GetLane(hn::SumOfLanes(DF(), sum)) / static_cast<float>(width);
  const VF scale = hn::Set(DF(), 1.0f / std::sqrt(mean + epsilon));
  ForLanes(width, [&](int64_t i, int count) HWY_ATTR {
    const VF v = hn::Mul(hn::Mul(LoadPart(in + i, count), scale), LoadPart(weight + i, count));
    StorePart(v, out + i, count);
  });
}

void RmsNormCpu(const RmsNormParams& p, ThreadPool& pool) {
  const int64_t width = p.residual.shape[1];
  ForRows(pool, p.residual.shape[0], width, [&](int64_t row) HWY_ATTR {
    float* residual = p.residual.as<float>() + row * width;
    if (!p.x.empty()) {
      const float* x = p.x.as<float>() + row * width;
      ForLanes(width, [&](int64_t i, int count) HWY_ATTR {
        StorePart(hn::Add(LoadPart(residual + i, count), LoadPart(x + i, count)), residual + i,
                  count);
      });
    }
    NormVector(residual, p.weight.as<float>(), width, p.epsilon, p.out.as<float>() + row * width);
  });
}

void SiluMulCpu(const SiluMulParams& p, ThreadPool& pool) {
  const int64_t width = p.out.shape[1];
  ForRows(pool, p.out.shape[0], 2 * width, [&](int64_t row) HWY_ATTR {
    const float* gate = p.gate_up.as<float>() + row * 2 * width;
    ForLanes(width, [&](int64_t i, int count) HWY_ATTR {
      const DF df;
      const VF g = LoadPart(gate + i, count), up = LoadPart(gate + width + i, count);
      // Exp overflows above 88; g / (1 + e^88) is below any f32 that matters.
      const VF e = hn::Exp(df, hn::Min(hn::Neg(g), hn::Set(df, 88.0f)));
      StorePart(hn::Mul(hn::Div(g, hn::Add(hn::Set(df, 1.0f), e)), up),
                p.out.as<float>() + row * width + i, count);
    });
  });
}

// head = head * cos + partner(head) * sin.
void Rotate(RopeStyle style, int dim, const float* cos, const float* sin, float* head) {
  const DF df;
  const int half = dim / 2;
  if (style == RopeStyle::kHalf) {
    ForLanes(half, [&](int64_t i, int count) HWY_ATTR {
      const VF a = LoadPart(head + i, count), b = LoadPart(head + half + i, count);
      const VF c = LoadPart(cos + i, count), s = LoadPart(sin + half + i, count);
      StorePart(hn::Sub(hn::Mul(a, c), hn::Mul(b, s)), head + i, count);
      StorePart(hn::Add(hn::Mul(b, c), hn::Mul(a, s)), head + half + i, count);
    });
    return;
  }
  ForLanes(dim, [&](int64_t i, int count) HWY_ATTR {
    const VF v = LoadPart(head + i, count), partner = hn::Reverse2(df, v);
    const VF c = LoadPart(cos + i, count), s = LoadPart(sin + i, count);
    StorePart(hn::Add(hn::Mul(v, c), hn::Mul(partner, s)), head + i, count);
  });
}

// Writes a key or value of `dim` floats to every `step`-th element from `at` on, rounded to the
// pool's type.
void StoreRounded(const KvView& kv, int64_t at, int step, const float* from) {
  if (kv.dtype != DType::kF16) {
    for (int i = 0; i < kv.head_dim; ++i) StoreKv(kv, at + int64_t{i} * step, from[i]);
    return;
  }
  const DF df;
  const hn::Rebind<hwy::float16_t, DF> d16;
  auto* to = static_cast<uint16_t*>(kv.pool) + at;
  ForLanes(kv.head_dim, [&](int64_t i, int count) HWY_ATTR {
    const VF limit = hn::Set(df, 65504.0f);
    const VF v = hn::Min(hn::Max(LoadPart(from + i, count), hn::Neg(limit)), limit);
    alignas(64) uint16_t rounded[kLanes];
    hn::Store(hn::DemoteTo(d16, v), d16, reinterpret_cast<hwy::float16_t*>(rounded));
    for (int j = 0; j < count; ++j) to[(i + j) * step] = rounded[j];
  });
}

// Norms and rotates the heads of one token and writes its keys and values.
void AppendToken(const AppendParams& p, const RopeTable& rope, const SequenceSpan& s, int index) {
  const KvView& kv = p.at.kv();
  const int d = kv.head_dim, page_size = kv.page_size, num_kv_heads = kv.num_kv_heads;
  const int token = s.first_token + index;
  float* heads = p.qkv.as<float>() + int64_t{token} * (p.num_q_heads + 2 * num_kv_heads) * d;
  for (int h = 0; h < p.num_q_heads + num_kv_heads; ++h) {
    const TensorView& norm = h < p.num_q_heads ? p.q_norm : p.k_norm;
    if (!norm.empty()) NormVector(heads + h * d, norm.as<float>(), d, p.epsilon, heads + h * d);
    Rotate(p.rope.style, d, rope.cos(token), rope.sin(token), heads + h * d);
  }
  for (int h = 0; h < num_kv_heads; ++h) {
    const float* key = heads + (p.num_q_heads + h) * d;
    const int group = p.at.group(h), at = p.at.History(s, group) + index;
    const int32_t id = kv.page_table[kv.Place(s.slot, group) + at / page_size];
    const int64_t block = (int64_t{id} * kv.group_size + p.at.column(h)) * 2 * page_size * d;
    const int offset = at % page_size;
    StoreRounded(kv, block + offset, page_size, key);
    StoreRounded(kv, block + (page_size + offset) * d, 1, key + num_kv_heads * d);
  }
}

void AppendCpu(const AppendParams& p, RopeTable& rope, ThreadPool& pool) {
  rope.Update(p, pool);
  const KvView& kv = p.at.kv();
  const int64_t width = int64_t{p.num_q_heads + 2 * kv.num_kv_heads} * kv.head_dim;
  const int64_t num_spans = p.at.num_spans();
  if (num_spans == 1) {
    const SequenceSpan& s = p.at.span(0);
    ForRows(pool, s.num_tokens, width,
            [&](int64_t i) { AppendToken(p, rope, s, static_cast<int>(i)); });
    return;
  }
  ForRows(pool, num_spans, width * (p.qkv.shape[0] / num_spans), [&](int64_t i) {
    const SequenceSpan& s = p.at.span(static_cast<int>(i));
    for (int t = 0; t < s.num_tokens; ++t) AppendToken(p, rope, s, t);
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace tangram::ops
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace tangram::ops {

HWY_EXPORT(RmsNormCpu);
void RmsNormCpu(const RmsNormParams& p, ThreadPool& pool) {
  HWY_DYNAMIC_DISPATCH(RmsNormCpu)(p, pool);
}

HWY_EXPORT(SiluMulCpu);
void SiluMulCpu(const SiluMulParams& p, ThreadPool& pool) {
  HWY_DYNAMIC_DISPATCH(SiluMulCpu)(p, pool);
}

HWY_EXPORT(AppendCpu);
void AppendCpu(const AppendParams& p, RopeTable& rope, ThreadPool& pool) {
  HWY_DYNAMIC_DISPATCH(AppendCpu)(p, rope, pool);
}

void RopeTable::Update(const AppendParams& p, ThreadPool& pool) {
  const int half = p.at.kv().head_dim / 2;
  const std::vector<int32_t>& positions = p.at.step->input->positions;
  const size_t tokens = positions.size();
  if (positions_ == positions && inv_freq_.size() == static_cast<size_t>(half) &&
      std::equal(inv_freq_.begin(), inv_freq_.end(), p.rope.inv_freq) && scale_ == p.rope.scale &&
      style_ == p.rope.style) {
    return;
  }
  positions_ = positions;
  inv_freq_.assign(p.rope.inv_freq, p.rope.inv_freq + half);
  dim_ = 2 * half;
  scale_ = p.rope.scale;
  style_ = p.rope.style;
  cos_.resize(tokens * dim_);
  sin_.resize(tokens * dim_);
  const int tokens_a_task = 16;
  pool.Run(static_cast<int>((tokens + tokens_a_task - 1) / tokens_a_task), [&](int task, int) {
    const size_t end = std::min(tokens, static_cast<size_t>(task + 1) * tokens_a_task);
    for (size_t t = static_cast<size_t>(task) * tokens_a_task; t < end; ++t) {
      for (int i = 0; i < half; ++i) {
        // In double: at position 100,000 an f32 angle is off by 0.004.
        const double angle = static_cast<double>(positions_[t]) * inv_freq_[i];
        const bool is_half = style_ == RopeStyle::kHalf;
        const size_t a = t * dim_ + (is_half ? i : 2 * i), b = is_half ? a + half : a + 1;
        cos_[a] = cos_[b] = static_cast<float>(std::cos(angle) * scale_);
        sin_[b] = static_cast<float>(std::sin(angle) * scale_);
        sin_[a] = -sin_[b];
      }
    }
  });
}

}  // namespace tangram::ops
#endif
