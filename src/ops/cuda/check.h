#pragma once

#include <cuda_runtime.h>

#include <cstdio>
#include <cstdlib>

namespace tangram::ops::cuda {

// A failed CUDA call or launch is a programmer's bug, or a broken device: it aborts with its name.
// (This header, unlike base/check.h, is cheap for nvcc to parse.)
inline void CheckCuda(cudaError_t status, const char* what, const char* file, int line) {
  if (status == cudaSuccess) return;
  std::fprintf(stderr, "%s:%d: %s: %s (%s)\n", file, line, what, cudaGetErrorString(status),
               cudaGetErrorName(status));
  std::abort();
}

}  // namespace tangram::ops::cuda

#define TANGRAM_CUDA_CHECK(call) ::tangram::ops::cuda::CheckCuda((call), #call, __FILE__, __LINE__)

// After every launch: the launch itself, not its execution, is checked.
#define TANGRAM_CUDA_CHECK_LAUNCH() TANGRAM_CUDA_CHECK(cudaGetLastError())
