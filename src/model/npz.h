#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "tensor/tensor.h"

namespace tangram {

// An array of an .npz file, in C order.
struct NpyArray {
  std::string type;  // numpy's spelling, little-endian: <f4, <f8, <i4, <i8 or |u1
  std::vector<int64_t> shape;
  std::string bytes;

  int64_t count() const;
  // The elements as floating-point numbers, whatever the type.
  std::vector<double> Values() const;
};

// The arrays of a file that numpy.savez or numpy.savez_compressed wrote: a zip archive (PKWARE's
// APPNOTE.TXT) of members in numpy's format (numpy.lib.format). The file is user input: every
// length is checked before it is used, checksums are compared, and what a member says that it
// inflates to is the limit.
class NpzFile {
 public:
  static constexpr uint64_t kMaxBytes = 64u << 20;  // of all arrays together, inflated

  // kUnsupported, naming file and member, for bytes that are short or malformed, and for zip's and
  // numpy's rarer forms (encryption, zip64, other compressions; Fortran order, other types).
  static Result<NpzFile> Parse(const Buffer& file, const std::string& name);
  // Whether it begins as a zip archive does.
  static bool LooksLike(const Buffer& file);

  // Null if there is none of that name.
  const NpyArray* Find(std::string_view name) const;

 private:
  std::map<std::string, NpyArray, std::less<>> arrays_;
};

}  // namespace tangram
