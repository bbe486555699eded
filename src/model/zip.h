#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace tangram {

// A member of a zip archive, inflated.
struct ZipMember {
  std::string name, bytes;
};

// All members of the archive, as its central directory lists them, stored or deflated.
// kUnsupported if it is malformed, a checksum is wrong, or members come to more than max_bytes, and
// for encryption, zip64, several disks and other compressions. Messages begin with `name`.
Result<std::vector<ZipMember>> ReadZip(std::string_view archive, const std::string& name,
                                       uint64_t max_bytes);

}  // namespace tangram
