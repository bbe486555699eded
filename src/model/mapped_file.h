#pragma once

#include <string>
#include <string_view>

#include "base/result.h"
#include "tensor/tensor.h"

namespace tangram {

// The whole file, mapped read-only: what is never read costs nothing, and the memory goes back
// to the system under pressure. kLoad, naming the file, if it cannot be opened, kUnsupported
// if it is empty.
Result<Buffer> MapFile(const std::string& path);

inline std::string_view AsText(const Buffer& file) {
  return {static_cast<const char*>(file.data()), file.bytes()};
}

}  // namespace tangram
