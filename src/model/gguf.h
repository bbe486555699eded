#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "model/stored_tensor.h"

namespace tangram {

// A file in the GGUF format, version 2 or 3, mapped
// (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md). The file is user input: every length
// is checked against the file's size before it is used.
class GgufFile {
 public:
  // kLoad, naming the file, if it cannot be read, kUnsupported if it is short or malformed.
  static Result<GgufFile> Open(const std::string& path);
  // The same of bytes in memory; `name` is for messages.
  static Result<GgufFile> Parse(Buffer file, const std::string& name);

  // Metadata. Nothing if the key is absent or its value is of another kind: integers of any width
  // and booleans are Int, integers and floating-point numbers are Float. Strings point into the
  // file.
  bool Has(std::string_view key) const { return Find(key) != nullptr; }
  std::optional<int64_t> Int(std::string_view key) const;
  std::optional<double> Float(std::string_view key) const;
  std::optional<bool> Bool(std::string_view key) const;
  std::optional<std::string_view> String(std::string_view key) const;
  std::optional<std::vector<std::string_view>> StringArray(std::string_view key) const;
  std::optional<std::vector<int64_t>> IntArray(std::string_view key) const;
  std::vector<std::string_view> keys() const;

  // Shapes are row-major: the file's first dimension is the last here.
  const std::vector<StoredTensor>& tensors() const { return tensors_; }
  // What keeps tensors and strings alive.
  const Buffer& owner() const { return file_; }

 private:
  // A value's bytes, checked to lie in the file whole; elements are decoded when asked for.
  struct Value {
    uint32_t type = 0;
    uint32_t element_type = 0;  // of an array
    uint64_t count = 1;
    std::string_view bytes;
  };
  friend class GgufParser;
  const Value* Find(std::string_view key) const;

  Buffer file_;
  std::map<std::string, Value, std::less<>> metadata_;
  std::vector<StoredTensor> tensors_;
};

// Whether the file begins as a GGUF file does.
bool LooksLikeGguf(const std::string& path);

}  // namespace tangram
