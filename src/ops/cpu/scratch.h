#pragma once

#include <cstddef>

#include "base/check.h"
#include "tensor/tensor.h"

namespace tangram::ops {

// Memory that an op needs only while it runs; grows, and stays for the next call.
class Scratch {
 public:
  template <class T>
  T* Get(size_t count) {
    if (count * sizeof(T) > buffer_.bytes()) {
      buffer_ = Buffer::AllocateHost(count * sizeof(T) * 5 / 4);
      TANGRAM_CHECK(buffer_.data() != nullptr, "{} bytes of scratch memory", count * sizeof(T));
    }
    return static_cast<T*>(buffer_.data());
  }

 private:
  Buffer buffer_;
};

}  // namespace tangram::ops
