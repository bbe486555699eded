// Any bytes as a safetensors file: parsed, and both ends of each tensor touched.

#include <cstring>

#include "model/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace tangram;
  if (size == 0) return 0;
  // On the heap, so that a read beyond the end is seen.
  std::shared_ptr<uint8_t[]> copy(new uint8_t[size]);
  std::memcpy(copy.get(), data, size);
  const auto file = SafetensorsFile::Parse(Buffer(copy, size), "input");
  if (!file) return 0;
  volatile size_t touched = 0;
  for (const auto& tensor : file->tensors()) {
    if (tensor.view.empty() || tensor.view.bytes() == 0) continue;
    touched = touched + tensor.view.as<uint8_t>()[0];
    touched = touched + tensor.view.as<uint8_t>()[tensor.view.bytes() - 1];
  }
  return 0;
}
