#include "ops/cuda/backend/staging.h"

#include <algorithm>

#include "ops/cuda/check.h"

namespace tangram::ops::cuda {
namespace {

constexpr size_t kFirstCapacity = 4 << 20;

}  // namespace

Staging::~Staging() {
  for (Buffer& buffer : buffers_) {
    if (buffer.host != nullptr) cudaFreeHost(buffer.host);
    if (buffer.copied != nullptr) cudaEventDestroy(buffer.copied);
  }
  if (device_ != nullptr) cudaFree(device_);
}

void Staging::Begin() {
  current_ = (current_ + 1) % kBuffers;
  used_ = 0;
  Buffer& buffer = buffers_[static_cast<size_t>(current_)];
  if (buffer.copied == nullptr) {
    TANGRAM_CUDA_CHECK(cudaEventCreateWithFlags(&buffer.copied, cudaEventDisableTiming));
    Grow(kFirstCapacity);
  } else {
    TANGRAM_CUDA_CHECK(cudaEventSynchronize(buffer.copied));
  }
}

void Staging::Grow(size_t capacity) {
  Buffer& buffer = buffers_[static_cast<size_t>(current_)];
  std::byte* larger = nullptr;
  TANGRAM_CUDA_CHECK(cudaMallocHost(&larger, capacity));
  if (used_ > 0) std::memcpy(larger, buffer.host, used_);
  if (buffer.host != nullptr) cudaFreeHost(buffer.host);
  buffer.host = larger;
  buffer.capacity = capacity;
}

size_t Staging::Append(const void* data, size_t bytes) {
  const size_t offset = used_;
  if (bytes == 0) return offset;
  const size_t needed = offset + (bytes + 15) / 16 * 16;
  Buffer& buffer = buffers_[static_cast<size_t>(current_)];
  if (needed > buffer.capacity) Grow(std::max(needed, 2 * buffer.capacity));
  std::memcpy(buffer.host + offset, data, bytes);
  used_ = needed;
  return offset;
}

void Staging::Copy(cudaStream_t stream) {
  Buffer& buffer = buffers_[static_cast<size_t>(current_)];
  if (buffer.capacity > device_capacity_) {  // waits for what still reads the old one
    if (device_ != nullptr) TANGRAM_CUDA_CHECK(cudaFree(device_));
    TANGRAM_CUDA_CHECK(cudaMalloc(&device_, buffer.capacity));
    device_capacity_ = buffer.capacity;
  }
  if (used_ > 0) {
    TANGRAM_CUDA_CHECK(
        cudaMemcpyAsync(device_, buffer.host, used_, cudaMemcpyHostToDevice, stream));
  }
  TANGRAM_CUDA_CHECK(cudaEventRecord(buffer.copied, stream));
}

}  // namespace tangram::ops::cuda
