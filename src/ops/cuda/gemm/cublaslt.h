#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "ops/cuda/gemm/gemm.h"

namespace tangram::ops::cuda {

// NVIDIA's matrix products, from a library opened at run time: nothing links against it, and a
// machine without it runs on our own kernels.
class CublasLt {
 public:
  // A way to compute one shape; opaque outside.
  struct Plan;

  // Opens `path` (libcublasLt.so.13, or a full path). An error names the path and the loader's
  // reason.
  static Result<std::unique_ptr<CublasLt>> Open(const std::string& path);
  virtual ~CublasLt() = default;

  // Up to `max` plans for the shape of `args` on the current device, the expected fastest first. Of
  // its columns all or none are f32; of its pointers, only whether there is a bias matters. Empty
  // if the library has none.
  virtual std::vector<std::shared_ptr<Plan>> Plans(const MatMulArgs& args, int max) = 0;
  // Runs a plan for these very shapes.
  virtual void Run(const Plan& plan, const MatMulArgs& args, void* workspace,
                   cudaStream_t stream) = 0;
  // What a plan may use of workspace.
  static constexpr size_t kWorkspaceBytes = 32 << 20;
};

}  // namespace tangram::ops::cuda
