// Any bytes as an .npz file: unpacked, and every array that a profile may have widened.

#include <cstring>

#include "model/npz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace tangram;
  if (size == 0) return 0;
  // On the heap, so that a read beyond the end is seen.
  std::shared_ptr<uint8_t[]> copy(new uint8_t[size]);
  std::memcpy(copy.get(), data, size);
  const auto file = NpzFile::Parse(Buffer(copy, size), "input");
  if (!file) return 0;
  volatile double sum = 0;
  for (const char* name : {"raw_ratio", "base_ratios", "meta", "static_layer_ids", "a"}) {
    const NpyArray* array = file->Find(name);
    if (array == nullptr) continue;
    for (const double value : array->Values()) sum = sum + value;
  }
  return 0;
}
