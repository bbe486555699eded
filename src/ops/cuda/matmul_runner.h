#pragma once

#include <array>
#include <map>
#include <memory>

#include "ops/cuda/cublaslt.h"
#include "ops/cuda/gemm.h"

namespace tangram::ops::cuda {

// The matrix product of a forward step: the streaming kernel for few rows of x, cuBLASLt for many,
// our own kernels where the library or the instructions for it are missing. One for each stream.
class MatMulRunner {
 public:
  // `library` may be null. `stream_workspace` is as RunStreamMatMul wants it, `library_workspace`
  // has CublasLt::kWorkspaceBytes. `invariant`: a row of x gives the same bits whatever stands
  // beside it, at any M.
  MatMulRunner(std::unique_ptr<CublasLt> library, const StreamWorkspace& stream_workspace,
               void* library_workspace, bool invariant);

  void Run(const MatMulArgs& args, cudaStream_t stream);

 private:
  void RunLibrary(const MatMulArgs& args, cudaStream_t stream);

  std::unique_ptr<CublasLt> library_;
  StreamWorkspace stream_workspace_;
  void* library_workspace_;
  bool invariant_;
  // By M, N, K, row stride and whether there is a bias.
  std::map<std::array<int64_t, 5>, std::shared_ptr<CublasLt::Plan>> plans_;
};

}  // namespace tangram::ops::cuda
