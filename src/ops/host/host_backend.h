#pragma once

#include "ops/backend.h"
#include "ops/host/sampler.h"

namespace tangram::ops {

// What backends share that compute in host memory, when they are called: a step has run when its
// ops return.
class HostBackend : public Backend {
 public:
  DType activation_dtype() const override { return DType::kF32; }
  Limits limits() const override;
  BackendMemory memory() const override;
  Buffer Allocate(size_t bytes) override { return Buffer::AllocateHost(bytes); }
  void Write(void* to, const void* from, size_t bytes) override;
  void Read(void* to, const void* from, size_t bytes) override;

  const Step& Begin(const StepInput& input, const KvView& kv, float* pool_scores) override;
  void Run(const Step&, const std::function<void()>& forward) override { forward(); }
  void GatherRows(const GatherRowsParams& p) override;
  Ticket Sample(const TensorView& logits, const SamplingInput& input) override;
  const SamplingOutput& Wait(Ticket) override { return output_; }

 protected:
  // Matrices one below the other, or what was given if it is one.
  struct Joined {
    TensorView view;  // empty if there is not enough memory
    Buffer memory;
  };
  static Joined Join(std::span<const TensorView> parts);

 private:
  Step step_;
  std::vector<int32_t> tokens_;  // of the step
  std::vector<int32_t> drawn_;   // by slot
  Sampler sampler_;
  SamplingOutput output_;
};

}  // namespace tangram::ops
