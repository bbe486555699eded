#pragma once

#include <cstddef>
#include <utility>
#include <vector>

#include "ops/cuda/check.h"

namespace tangram::ops::cuda {

// Owns `size` elements of device memory, uninitialised. Copies to and from the host are
// synchronous.
template <class T>
class DeviceArray {
 public:
  DeviceArray() = default;
  explicit DeviceArray(size_t size) : size_(size) {
    if (size > 0) TANGRAM_CUDA_CHECK(cudaMalloc(&data_, size * sizeof(T)));
  }
  explicit DeviceArray(const std::vector<T>& host) : DeviceArray(host.size()) { Upload(host); }
  DeviceArray(DeviceArray&& other) noexcept { *this = std::move(other); }
  DeviceArray& operator=(DeviceArray&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }
  ~DeviceArray() {
    if (data_ != nullptr) cudaFree(data_);
  }

  T* data() const { return data_; }
  size_t size() const { return size_; }
  size_t bytes() const { return size_ * sizeof(T); }

  // Sets every byte: 0xff makes NaN of every float type and poisons what nobody writes.
  void FillBytes(int value) {
    if (size_ > 0) TANGRAM_CUDA_CHECK(cudaMemset(data_, value, bytes()));
  }
  void Upload(const std::vector<T>& host) {
    if (host.empty()) return;
    TANGRAM_CUDA_CHECK(
        cudaMemcpy(data_, host.data(), host.size() * sizeof(T), cudaMemcpyHostToDevice));
  }
  std::vector<T> Download() const {
    std::vector<T> host(size_);
    if (size_ > 0) {
      TANGRAM_CUDA_CHECK(cudaMemcpy(host.data(), data_, bytes(), cudaMemcpyDeviceToHost));
    }
    return host;
  }

 private:
  T* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace tangram::ops::cuda
