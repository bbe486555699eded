#pragma once

#include <algorithm>
#include <cstddef>

#include "ops/cuda/check.h"

namespace tangram::ops::cuda {

// Device memory that grows to what was asked for most. Growing waits for the device: sizes that are
// known at start are asked for there.
class Scratch {
 public:
  Scratch() = default;
  Scratch(const Scratch&) = delete;
  ~Scratch() {
    if (data_ != nullptr) cudaFree(data_);
  }

  template <class T>
  T* Get(size_t count) {
    const size_t bytes = count * sizeof(T);
    if (bytes > bytes_) {
      if (data_ != nullptr) TANGRAM_CUDA_CHECK(cudaFree(data_));
      data_ = nullptr;
      TANGRAM_CUDA_CHECK(cudaMalloc(&data_, bytes));
      TANGRAM_CUDA_CHECK(cudaMemset(data_, 0, bytes));
      bytes_ = bytes;
    }
    return static_cast<T*>(data_);
  }

 private:
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

}  // namespace tangram::ops::cuda
