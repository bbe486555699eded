#include "tensor/tensor.h"

#include <sys/mman.h>

namespace tangram {

Buffer Buffer::AllocateHost(size_t bytes) {
  if (bytes == 0) return {};
  void* p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) return {};
  madvise(p, bytes, MADV_HUGEPAGE);  // a hint: fewer TLB misses on the page pool and on logits
  return Buffer(std::shared_ptr<void>(p, [bytes](void* q) { munmap(q, bytes); }), bytes);
}

TensorView Buffer::View(DType dtype, const Shape& shape, size_t byte_offset) const {
  TensorView view{static_cast<std::byte*>(data()) + byte_offset, dtype, shape};
  TANGRAM_CHECK(byte_offset + view.bytes() <= bytes_, "{} + {} > {}", byte_offset, view.bytes(),
                bytes_);
  return view;
}

}  // namespace tangram
