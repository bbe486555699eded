#include "ops/cuda/backend/weights.h"

#include <algorithm>
#include <cstring>

#include "base/cores.h"
#include "ops/cuda/check.h"
#include "ops/reference/dequantize.h"
#include "tensor/float16.h"

namespace tangram::ops::cuda {
namespace {

constexpr size_t kPieceBytes = 32 << 20;
constexpr int kMostThreads = 16;

// Where the bf16 copy of a vector of `count` floats lies.
size_t CopyOffset(int64_t count) { return (static_cast<size_t>(count) * 4 + 15) / 16 * 16; }

void ConvertRow(const TensorView& from, int64_t row, uint16_t* to) {
  const int64_t width = from.shape[1];
  const auto* stored =
      from.as<std::byte>() + row * static_cast<int64_t>(BytesFor(from.dtype, width));
  if (from.dtype == DType::kBF16) {
    std::memcpy(to, stored, static_cast<size_t>(width) * 2);
    return;
  }
  thread_local std::vector<float> values;
  values.resize(static_cast<size_t>(width));
  Dequantize(from.dtype, stored, width, values.data());
  for (int64_t i = 0; i < width; ++i) to[i] = FloatToBFloat(values[static_cast<size_t>(i)]);
}

}  // namespace

WeightUploader::WeightUploader() : threads_(std::clamp(AvailableCores(), 1, kMostThreads)) {
  TANGRAM_CUDA_CHECK(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
  for (Piece& piece : pieces_) {
    TANGRAM_CUDA_CHECK(cudaMallocHost(&piece.host, kPieceBytes));
    TANGRAM_CUDA_CHECK(cudaEventCreateWithFlags(&piece.copied, cudaEventDisableTiming));
  }
}

WeightUploader::~WeightUploader() {
  cudaStreamDestroy(stream_);
  for (Piece& piece : pieces_) {
    cudaFreeHost(piece.host);
    cudaEventDestroy(piece.copied);
  }
  for (void* memory : owned_) cudaFree(memory);
}

void* WeightUploader::Allocate(size_t bytes) {
  void* memory = nullptr;
  if (cudaMalloc(&memory, bytes) != cudaSuccess) {
    cudaGetLastError();  // told to the caller; the next check must not see it
    return nullptr;
  }
  owned_.push_back(memory);
  return memory;
}

void WeightUploader::CopyMatrix(const TensorView& from, std::byte* to) {
  const int64_t rows = from.shape[0], row_bytes = from.shape[1] * 2;
  const int64_t rows_a_piece = std::max<int64_t>(1, static_cast<int64_t>(kPieceBytes) / row_bytes);
  TANGRAM_CHECK(row_bytes <= static_cast<int64_t>(kPieceBytes), "a row of {} bytes", row_bytes);
  for (int64_t first = 0; first < rows; first += rows_a_piece) {
    Piece& piece = pieces_[next_];
    next_ = (next_ + 1) % kPieces;
    TANGRAM_CUDA_CHECK(cudaEventSynchronize(piece.copied));
    const int64_t count = std::min(rows_a_piece, rows - first);
    const int64_t share = (count - 1) / threads_.num_threads() + 1;
    threads_.Run(threads_.num_threads(), [&](int task, int) {
      const int64_t end = std::min(count, (task + 1) * share);
      for (int64_t row = task * share; row < end; ++row) {
        ConvertRow(from, first + row, reinterpret_cast<uint16_t*>(piece.host + row * row_bytes));
      }
    });
    TANGRAM_CUDA_CHECK(cudaMemcpyAsync(to + first * row_bytes, piece.host,
                                       static_cast<size_t>(count * row_bytes),
                                       cudaMemcpyHostToDevice, stream_));
    TANGRAM_CUDA_CHECK(cudaEventRecord(piece.copied, stream_));
  }
}

TensorView WeightUploader::UploadVector(const TensorView& from) {
  TANGRAM_CHECK(from.dtype == DType::kF32, "a vector of type {}", DTypeName(from.dtype));
  const int64_t count = from.shape.count();
  const size_t offset = CopyOffset(count), bytes = offset + static_cast<size_t>(count) * 2;
  auto* memory = static_cast<std::byte*>(Allocate(bytes));
  if (memory == nullptr) return {};
  std::vector<std::byte> host(bytes);
  std::memcpy(host.data(), from.data, static_cast<size_t>(count) * 4);
  auto* copy = reinterpret_cast<uint16_t*>(host.data() + offset);
  for (int64_t i = 0; i < count; ++i) copy[i] = FloatToBFloat(from.as<float>()[i]);
  TANGRAM_CUDA_CHECK(cudaMemcpy(memory, host.data(), bytes, cudaMemcpyHostToDevice));
  return {memory, DType::kF32, from.shape};
}

TensorView WeightUploader::Upload(std::span<const TensorView> parts) {
  if (parts.front().shape.rank() != 2) return UploadVector(parts.front());
  int64_t rows = 0;
  for (const TensorView& part : parts) rows += part.shape[0];
  const int64_t width = parts.front().shape[1];
  auto* memory = static_cast<std::byte*>(Allocate(static_cast<size_t>(rows * width) * 2));
  if (memory == nullptr) return {};
  std::byte* to = memory;
  for (const TensorView& part : parts) {
    CopyMatrix(part, to);
    to += part.shape[0] * width * 2;
  }
  TANGRAM_CUDA_CHECK(cudaStreamSynchronize(stream_));  // the caller may free what is stored
  return {memory, DType::kBF16, {rows, width}};
}

const void* WeightUploader::Bf16Of(const TensorView& vector) {
  return vector.as<std::byte>() + CopyOffset(vector.shape.count());
}

}  // namespace tangram::ops::cuda
