#pragma once

#include <array>
#include <map>
#include <memory>
#include <span>

#include "ops/cuda/gemm/cublaslt.h"
#include "ops/cuda/gemm/gemm.h"

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

  // Measures the library's plans for products of one shape, best of several layers, whose weights
  // together do not stay in the L2 cache; from now on the fastest is taken. Writes their outputs.
  // For shapes that come often, ahead of time: it waits for the device. Otherwise `Run` takes the
  // plan that the library expects to be the fastest.
  void Tune(std::span<const MatMulArgs> products, cudaStream_t stream);

 private:
  using Plan = std::shared_ptr<CublasLt::Plan>;

  void RunLibrary(const MatMulArgs& args, cudaStream_t stream);
  // Of one product: the least of so many rounds through all of them.
  float Microseconds(const CublasLt::Plan& plan, std::span<const MatMulArgs> products, int rounds,
                     cudaStream_t stream);

  std::unique_ptr<CublasLt> library_;
  StreamWorkspace stream_workspace_;
  void* library_workspace_;
  bool invariant_;
  // By M, N, K, row stride, whether there is a bias and whether columns are f32. Null: the library
  // has none.
  using Key = std::array<int64_t, 6>;
  static Key KeyOf(const MatMulArgs& args);
  std::map<Key, Plan> tuned_, expected_;
};

}  // namespace tangram::ops::cuda
