#pragma once

#include <cuda_runtime_api.h>

#include <array>
#include <cstddef>
#include <cstring>
#include <span>

namespace tangram::ops::cuda {

// What the host gives the device with a step: written into pinned memory, and copied in one piece.
// A few buffers in turn, so that the host may write the next while the device still copies the
// last.
class Staging {
 public:
  Staging() = default;
  Staging(const Staging&) = delete;
  ~Staging();

  // Begins a new piece.
  void Begin();
  // Appends an array; `device(offset)` is where it will lie, once copied. Aligned to 16 bytes.
  template <class T>
  size_t Add(std::span<const T> values) {
    return Append(values.data(), values.size_bytes());
  }
  // Queues the copy. Then pointers are known.
  void Copy(cudaStream_t stream);
  template <class T>
  const T* device(size_t offset) const {
    return reinterpret_cast<const T*>(device_ + offset);
  }

 private:
  static constexpr int kBuffers = 4;
  struct Buffer {
    std::byte* host = nullptr;
    size_t capacity = 0;
    cudaEvent_t copied = nullptr;
  };

  size_t Append(const void* data, size_t bytes);
  void Grow(size_t capacity);

  std::array<Buffer, kBuffers> buffers_{};
  int current_ = 0;
  size_t used_ = 0;
  std::byte* device_ = nullptr;  // one: steps are run in order
  size_t device_capacity_ = 0;
};

}  // namespace tangram::ops::cuda
