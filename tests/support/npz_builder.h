#pragma once

#include <fmt/format.h>
#include <zlib.h>

#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include "base/check.h"
#include "tensor/tensor.h"

namespace tangram {

// Writes .npz files byte by byte as numpy.savez does, so that tests can break any of them.
class NpzBuilder {
 public:
  bool deflate = false;

  // An array whose header is numpy's for that type and shape ("(2, 3)").
  NpzBuilder& Add(const std::string& name, std::string_view type, std::string_view shape,
                  std::string_view data) {
    std::string header =
        fmt::format("{{'descr': '{}', 'fortran_order': False, 'shape': {}, }}", type, shape);
    header.resize((10 + header.size()) / 64 * 64 + 64 - 11, ' ');
    header += '\n';
    std::string bytes("\x93NUMPY\x01\x00", 8);
    Put<uint16_t>(bytes, static_cast<uint16_t>(header.size()));
    return AddMember(name + ".npy", bytes + header + std::string(data));
  }
  template <class T>
  NpzBuilder& Add(const std::string& name, std::string_view type, std::string_view shape,
                  const std::vector<T>& values) {
    return Add(
        name, type, shape,
        std::string_view(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)));
  }

  NpzBuilder& AddMember(const std::string& name, const std::string& bytes) {
    const std::string packed = deflate ? Deflated(bytes) : bytes;
    const auto* start = reinterpret_cast<const Bytef*>(bytes.data());
    std::string common;  // what both records have
    Put<uint16_t>(common, 0);
    Put<uint16_t>(common, deflate ? 8 : 0);
    Put<uint32_t>(common, 0);
    Put<uint32_t>(common, static_cast<uint32_t>(crc32(0, start, static_cast<uInt>(bytes.size()))));
    const std::string sizes = Sizes(packed.size(), bytes.size());
    const auto offset = static_cast<uint32_t>(members_.size());
    // The local record as numpy's, whose sizes are in a zip64 field.
    members_ += std::string("PK\x03\x04\x2d\x00", 6) + common + Sizes(0xffffffff, 0xffffffff);
    Put<uint16_t>(members_, static_cast<uint16_t>(name.size()));
    Put<uint16_t>(members_, 20);
    members_ += name + std::string(20, '\0') + packed;
    directory_ += std::string("PK\x01\x02\x2d\x00\x2d\x00", 8) + common + sizes;
    Put<uint16_t>(directory_, static_cast<uint16_t>(name.size()));
    directory_ += std::string(12, '\0');
    Put<uint32_t>(directory_, offset);
    directory_ += name;
    ++count_;
    return *this;
  }

  std::string Build() const {
    std::string file = members_ + directory_ + std::string("PK\x05\x06\0\0\0\0", 8);
    Put<uint16_t>(file, count_);
    Put<uint16_t>(file, count_);
    Put<uint32_t>(file, static_cast<uint32_t>(directory_.size()));
    Put<uint32_t>(file, static_cast<uint32_t>(members_.size()));
    Put<uint16_t>(file, 0);
    return file;
  }

 private:
  template <class T>
  static void Put(std::string& to, T value) {
    to.append(reinterpret_cast<const char*>(&value), sizeof(T));
  }
  static std::string Sizes(uint64_t packed, uint64_t bytes) {
    std::string sizes;
    Put<uint32_t>(sizes, static_cast<uint32_t>(packed));
    Put<uint32_t>(sizes, static_cast<uint32_t>(bytes));
    return sizes;
  }
  static std::string Deflated(const std::string& bytes) {
    z_stream stream{};
    TANGRAM_CHECK(deflateInit2(&stream, 6, Z_DEFLATED, -MAX_WBITS, 8, Z_DEFAULT_STRATEGY) == Z_OK,
                  "zlib");
    std::string packed(deflateBound(&stream, static_cast<uLong>(bytes.size())), '\0');
    stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(bytes.data()));
    stream.avail_in = static_cast<uInt>(bytes.size());
    stream.next_out = reinterpret_cast<Bytef*>(packed.data());
    stream.avail_out = static_cast<uInt>(packed.size());
    TANGRAM_CHECK(::deflate(&stream, Z_FINISH) == Z_STREAM_END, "zlib");
    packed.resize(stream.total_out);
    deflateEnd(&stream);
    return packed;
  }

  std::string members_, directory_;
  uint16_t count_ = 0;
};

// A copy on the heap: a read beyond the end is one that sanitizers see.
inline Buffer ToBuffer(std::string_view bytes) {
  std::shared_ptr<char[]> copy(new char[bytes.size() + (bytes.empty() ? 1 : 0)]);
  std::memcpy(copy.get(), bytes.data(), bytes.size());
  return Buffer(copy, bytes.size());
}

}  // namespace tangram
