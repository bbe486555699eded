// Any bytes as a GGUF file: parsed, its config read, all values and tensors touched.

#include <cstring>

#include "model/config.h"
#include "model/gguf.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace tangram;
  if (size == 0) return 0;
  // On the heap, so that a read beyond the end is seen.
  std::shared_ptr<uint8_t[]> copy(new uint8_t[size]);
  std::memcpy(copy.get(), data, size);
  const auto file = GgufFile::Parse(Buffer(copy, size), "input");
  if (!file) return 0;
  volatile size_t touched = 0;
  for (const auto key : file->keys()) {
    touched = touched + file->Float(key).has_value() + file->Bool(key).has_value();
    if (const auto text = file->String(key)) touched = touched + text->size();
    if (const auto texts = file->StringArray(key)) touched = touched + texts->size();
    if (const auto numbers = file->IntArray(key)) touched = touched + numbers->size();
  }
  for (const auto& tensor : file->tensors()) {
    if (tensor.view.empty() || tensor.view.bytes() == 0) continue;
    touched =
        touched + tensor.view.as<uint8_t>()[0] + tensor.view.as<uint8_t>()[tensor.view.bytes() - 1];
  }
  touched = touched + ReadGgufConfig(*file, "input").has_value();
  return 0;
}
