#pragma once

#include <cuda_runtime_api.h>

#include <span>

#include "ops/cpu/thread_pool.h"
#include "tensor/tensor.h"

namespace tangram::ops::cuda {

// Takes weights to the device: matrices in bf16, whatever type they are stored in, vectors in f32
// with a copy in bf16 behind them. Several threads read and convert into pinned memory, a piece
// while the last one is still copied.
class WeightUploader {
 public:
  WeightUploader();
  ~WeightUploader();
  WeightUploader(const WeightUploader&) = delete;

  // The rows of several matrices [N, K] of one K, one below the other, or one vector; empty if
  // there is not enough memory. The memory is owned by the uploader.
  TensorView Upload(std::span<const TensorView> parts);

  // The copy in bf16 of a vector that was uploaded.
  static const void* Bf16Of(const TensorView& vector);

 private:
  static constexpr int kPieces = 2;
  struct Piece {
    std::byte* host = nullptr;
    cudaEvent_t copied = nullptr;
  };

  void* Allocate(size_t bytes);
  void CopyMatrix(const TensorView& from, std::byte* to);
  TensorView UploadVector(const TensorView& from);

  ThreadPool threads_;
  Piece pieces_[kPieces];
  int next_ = 0;
  cudaStream_t stream_ = nullptr;
  std::vector<void*> owned_;
};

}  // namespace tangram::ops::cuda
