#pragma once

#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "ops/backend.h"

namespace tangram::ops {

// A backend that every case of every op runs on.
struct TestedBackend {
  std::string name;
  std::function<std::unique_ptr<Backend>(int threads)> create;
};
// Each tier of instructions that this processor has.
const std::vector<TestedBackend>& TestedBackends();

class Random {
 public:
  explicit Random(uint64_t seed) : engine_(seed) {}
  int Int(int low, int high) { return std::uniform_int_distribution<int>(low, high)(engine_); }
  std::vector<float> Normals(int64_t count, float scale = 1);
  // `count` elements of any stored weight type, in whole blocks, with standard deviation near 0.05.
  std::vector<uint8_t> Weights(DType type, int64_t count);

 private:
  std::mt19937_64 engine_;
};

// f32 memory of exactly `count` elements between guards that must stay as they were. The output of
// an op starts as NaN, so that what the op leaves out shows.
class Guarded {
 public:
  Guarded(Backend& backend, const Shape& shape);
  Guarded(Backend& backend, const Shape& shape, const std::vector<float>& values);
  TensorView view() const { return view_; }
  std::vector<float> values() const;
  void ExpectGuardsIntact() const;

 private:
  Buffer buffer_;
  TensorView view_;
};

// max |a - b| / rms(b), infinite if a value is NaN.
double RelativeError(const std::vector<float>& a, const std::vector<float>& b);
// Equality to the bit; names the first difference.
void ExpectSameBits(const std::vector<float>& a, const std::vector<float>& b);

}  // namespace tangram::ops
