// Any bytes as an .npz file: unpacked, and every array that a profile may have widened. What begins
// as an array does is put into an archive first: no mutation of one keeps its checksum.

#include "model/npz.h"
#include "support/npz_builder.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace tangram;
  std::string bytes(reinterpret_cast<const char*>(data), size);
  if (bytes.starts_with("\x93NUMPY")) bytes = NpzBuilder().AddMember("a.npy", bytes).Build();
  const auto file = NpzFile::Parse(ToBuffer(bytes), "input");
  if (!file) return 0;
  volatile double sum = 0;
  for (const char* name : {"raw_ratio", "base_ratios", "meta", "static_layer_ids", "a"}) {
    const NpyArray* array = file->Find(name);
    if (array == nullptr) continue;
    for (const double value : array->Values()) sum = sum + value;
  }
  return 0;
}
