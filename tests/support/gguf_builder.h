#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "tensor/tensor.h"

namespace tangram {

// Writes the bytes of a GGUF file, well formed or as broken as a test wants it.
class GgufBuilder {
 public:
  uint32_t version = 3;
  int64_t extra_values = 0, extra_tensors = 0;  // counted in the header, but not there

  template <class T>
  GgufBuilder& Add(std::string_view key, T value) {
    String(metadata_, key);
    Value(metadata_, value);
    ++num_values_;
    return *this;
  }
  template <class T>
  GgufBuilder& AddArray(std::string_view key, const std::vector<T>& values) {
    String(metadata_, key);
    Put<uint32_t>(metadata_, 9);
    Put<uint32_t>(metadata_, TypeOf<T>());
    Put<uint64_t>(metadata_, values.size());
    for (const T& value : values) Element(metadata_, value);
    ++num_values_;
    return *this;
  }
  // `dims` with the fastest first, as in the file.
  GgufBuilder& AddTensor(std::string_view name, const std::vector<uint64_t>& dims, uint32_t type,
                         std::string_view bytes) {
    data_.resize((data_.size() + 31) / 32 * 32);
    AddTensorInfo(name, dims, type, data_.size());
    data_ += bytes;
    return *this;
  }
  GgufBuilder& AddTensorInfo(std::string_view name, const std::vector<uint64_t>& dims,
                             uint32_t type, uint64_t offset) {
    String(infos_, name);
    Put(infos_, static_cast<uint32_t>(dims.size()));
    for (const uint64_t dim : dims) Put(infos_, dim);
    Put(infos_, type);
    Put(infos_, offset);
    ++num_tensors_;
    return *this;
  }
  std::string Build() const {
    std::string file = "GGUF";
    Put(file, version);
    Put<uint64_t>(file, num_tensors_ + extra_tensors);
    Put<uint64_t>(file, num_values_ + extra_values);
    file += metadata_ + infos_;
    file.resize((file.size() + 31) / 32 * 32);
    return file + data_;
  }

 private:
  template <class T>
  static void Put(std::string& out, T value) {
    out.append(reinterpret_cast<const char*>(&value), sizeof(value));
  }
  static void String(std::string& out, std::string_view text) {
    Put<uint64_t>(out, text.size());
    out += text;
  }
  template <class T>
  static constexpr uint32_t TypeOf() {
    if constexpr (std::is_same_v<T, uint32_t>) return 4;
    if constexpr (std::is_same_v<T, int32_t>) return 5;
    if constexpr (std::is_same_v<T, float>) return 6;
    if constexpr (std::is_same_v<T, bool>) return 7;
    if constexpr (std::is_convertible_v<T, std::string_view>) return 8;
    if constexpr (std::is_same_v<T, uint64_t>) return 10;
    return 12;  // double
  }
  template <class T>
  static void Element(std::string& out, const T& value) {
    if constexpr (std::is_convertible_v<T, std::string_view>) {
      String(out, value);
    } else {
      Put(out, value);
    }
  }
  template <class T>
  static void Value(std::string& out, const T& value) {
    Put(out, TypeOf<T>());
    Element(out, value);
  }

  std::string metadata_, infos_, data_;
  uint64_t num_values_ = 0, num_tensors_ = 0;
};

// A copy of the bytes in memory as a mapped file would be.
inline Buffer ToBuffer(std::string_view bytes) {
  Buffer buffer = Buffer::AllocateHost(bytes.size());
  std::memcpy(buffer.data(), bytes.data(), bytes.size());
  return buffer;
}

}  // namespace tangram
