#include "ops/op_test_support.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "tensor/float16.h"

// Highway reads the targets from the former.
// clang-format off
#include "ops/cpu/targets.h"
#include <hwy/highway.h>
// clang-format on

namespace tangram::ops {
namespace {

constexpr int kGuardBytes = 256;
constexpr uint8_t kGuard = 0xA5;

TestedBackend CpuTier(const std::string& name, int64_t target) {
  return {name, [target](int threads) {
            hwy::SetSupportedTargetsForTest(target);
            hwy::GetChosenTarget().Update(hwy::SupportedTargets());
            return CreateCpuBackend(threads);
          }};
}

void PutHalf(uint8_t* at, float value) {
  const uint16_t bits = FloatToHalf(value);
  std::memcpy(at, &bits, sizeof(bits));
}

}  // namespace

const std::vector<TestedBackend>& TestedBackends() {
  static const std::vector<TestedBackend> backends = [] {
    std::vector<TestedBackend> list;
    hwy::SetSupportedTargetsForTest(0);
    const int64_t targets = hwy::SupportedTargets() & HWY_TARGETS;
    for (int64_t left = targets; left != 0; left &= left - 1) {
      const int64_t target = left & -left;
      list.push_back(CpuTier(std::string("cpu_") + hwy::TargetName(target), target));
    }
    return list;
  }();
  return backends;
}

std::vector<float> Random::Normals(int64_t count, float scale) {
  std::normal_distribution<float> normal(0, scale);
  std::vector<float> values(count);
  for (float& v : values) v = normal(engine_);
  return values;
}

std::vector<uint8_t> Random::Weights(DType type, int64_t count) {
  std::vector<uint8_t> bytes(BytesFor(type, count));
  if (!IsBlockQuantized(type)) {
    const std::vector<float> values = Normals(count, 0.05f);
    for (int64_t i = 0; i < count; ++i) {
      const uint16_t half = type == DType::kF16 ? FloatToHalf(values[i]) : FloatToBFloat(values[i]);
      const void* from = type == DType::kF32 ? static_cast<const void*>(&values[i]) : &half;
      std::memcpy(&bytes[i * BlockBytes(type)], from, BlockBytes(type));
    }
    return bytes;
  }
  for (uint8_t& b : bytes) b = static_cast<uint8_t>(engine_());
  for (int64_t i = 0; i < count / BlockSize(type); ++i) {
    uint8_t* block = &bytes[i * BlockBytes(type)];
    const float scale = std::uniform_real_distribution<float>(0.5f, 1.5f)(engine_);
    switch (type) {
      case DType::kQ8_0:
        PutHalf(block, 0.0007f * scale);
        break;
      case DType::kQ4_0:
        PutHalf(block, 0.01f * scale);
        break;
      case DType::kQ4_1:
        PutHalf(block, 0.01f * scale);
        PutHalf(block + 2, -0.075f * scale);
        break;
      case DType::kQ6_K:
        PutHalf(block + 208, 0.00004f * scale);
        break;
      default:
        PutHalf(block, (type == DType::kQ4_K ? 0.0003f : 0.00015f) * scale);
        PutHalf(block + 2, 0.002f * scale);
    }
  }
  return bytes;
}

Guarded::Guarded(Backend& backend, const Shape& shape)
    : Guarded(backend, shape,
              std::vector<float>(shape.count(), std::numeric_limits<float>::quiet_NaN())) {}

Guarded::Guarded(Backend& backend, const Shape& shape, const std::vector<float>& values) {
  const size_t bytes = shape.count() * sizeof(float);
  buffer_ = backend.Allocate(bytes + 2 * kGuardBytes);
  std::memset(buffer_.data(), kGuard, buffer_.bytes());
  view_ = buffer_.View(DType::kF32, shape, kGuardBytes);
  std::memcpy(view_.data, values.data(), bytes);
}

std::vector<float> Guarded::values() const {
  return {view_.as<float>(), view_.as<float>() + view_.shape.count()};
}

void Guarded::ExpectGuardsIntact() const {
  const auto* bytes = static_cast<const uint8_t*>(buffer_.data());
  const size_t end = kGuardBytes + view_.bytes();
  for (size_t i = 0; i < kGuardBytes; ++i) {
    ASSERT_EQ(bytes[i], kGuard) << kGuardBytes - i << " bytes before the tensor";
    ASSERT_EQ(bytes[end + i], kGuard) << i << " bytes behind the tensor";
  }
}

double RelativeError(const std::vector<float>& a, const std::vector<float>& b) {
  double largest = 0, squares = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const double difference = std::abs(static_cast<double>(a[i]) - b[i]);
    if (!(difference <= largest)) largest = difference;
    if (std::isnan(difference)) return std::numeric_limits<double>::infinity();
    squares += static_cast<double>(b[i]) * b[i];
  }
  return largest / std::max(std::sqrt(squares / static_cast<double>(b.size())), 1e-30);
}

void ExpectSameBits(const std::vector<float>& a, const std::vector<float>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) {
    ASSERT_EQ(std::bit_cast<uint32_t>(a[i]), std::bit_cast<uint32_t>(b[i]))
        << "element " << i << ": " << a[i] << " and " << b[i];
  }
}

}  // namespace tangram::ops
