#pragma once

#include <cstdint>
#include <vector>

#include "ops/backend.h"
#include "ops/cpu/thread_pool.h"

namespace tangram::ops {

void RmsNormCpu(const RmsNormParams& p, ThreadPool& pool);
void SiluMulCpu(const SiluMulParams& p, ThreadPool& pool);

// cos and sin of the step's positions, the same for all layers: computed at the first and kept
// while positions and frequencies stay the same. A rotated head is x * cos + partner(x) * sin.
class RopeTable {
 public:
  void Update(const AppendParams& p, ThreadPool& pool);
  const float* cos(int64_t token) const { return &cos_[token * dim_]; }
  const float* sin(int64_t token) const { return &sin_[token * dim_]; }  // signs included

 private:
  int dim_ = 0;
  float scale_ = 0;
  RopeStyle style_ = RopeStyle::kHalf;
  std::vector<int32_t> positions_;
  std::vector<float> inv_freq_;
  std::vector<float> cos_, sin_;  // [T, d]
};

// K blocks are written transposed: [d, B].
void AppendCpu(const AppendParams& p, RopeTable& rope, ThreadPool& pool);

}  // namespace tangram::ops
