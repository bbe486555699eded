#pragma once

#include <cuda_runtime.h>

#include <stdexcept>
#include <string>

namespace tangram::ops::cuda {

// A failed CUDA call or launch is a programmer's bug, or a device that broke or was taken away: the
// engine's loop ends with its name, and every request hears of it. (This header, unlike
// base/check.h, is cheap for nvcc to parse.)
inline void CheckCuda(cudaError_t status, const char* what, const char* file, int line) {
  if (status == cudaSuccess) return;
  throw std::runtime_error(std::string(file) + ":" + std::to_string(line) + ": " + what + ": " +
                           cudaGetErrorString(status) + " (" + cudaGetErrorName(status) + ")");
}

}  // namespace tangram::ops::cuda

#define TANGRAM_CUDA_CHECK(call) ::tangram::ops::cuda::CheckCuda((call), #call, __FILE__, __LINE__)

// After every launch: the launch itself, not its execution, is checked.
#define TANGRAM_CUDA_CHECK_LAUNCH() TANGRAM_CUDA_CHECK(cudaGetLastError())
