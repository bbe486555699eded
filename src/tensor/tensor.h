#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <memory>

#include "base/check.h"
#include "tensor/dtype.h"

namespace tangram {

// Up to four dimensions, outermost first.
class Shape {
 public:
  Shape() = default;
  Shape(std::initializer_list<int64_t> dims) {
    TANGRAM_CHECK(dims.size() <= 4, "rank {}", dims.size());
    for (int64_t d : dims) dims_[rank_++] = d;
  }
  int rank() const { return rank_; }
  int64_t operator[](int i) const { return dims_[i]; }
  int64_t count() const {
    int64_t n = 1;
    for (int i = 0; i < rank_; ++i) n *= dims_[i];
    return n;
  }
  bool operator==(const Shape&) const = default;

 private:
  int rank_ = 0;
  std::array<int64_t, 4> dims_{};
};

// Borrows contiguous row-major elements, in host or device memory. The last dimension is a
// multiple of the type's block size.
struct TensorView {
  void* data = nullptr;
  DType dtype = DType::kF32;
  Shape shape;

  size_t bytes() const { return BytesFor(dtype, shape.count()); }
  bool empty() const { return data == nullptr; }
  template <class T>
  T* as() const {
    return static_cast<T*>(data);
  }
};

// Owns memory, whatever its kind: aligned host memory, a mapped file, device memory. The deleter
// knows; a Buffer may also only keep a larger owner (a mapped file) alive.
class Buffer {
 public:
  Buffer() = default;
  Buffer(std::shared_ptr<void> data, size_t bytes) : data_(std::move(data)), bytes_(bytes) {}
  // 64-byte aligned host memory, zeroed lazily by the system: pages never touched cost nothing.
  // `data()` is null if there is not enough.
  static Buffer AllocateHost(size_t bytes);

  void* data() const { return data_.get(); }
  size_t bytes() const { return bytes_; }
  TensorView View(DType dtype, const Shape& shape, size_t byte_offset = 0) const;

 private:
  std::shared_ptr<void> data_;
  size_t bytes_ = 0;
};

}  // namespace tangram
