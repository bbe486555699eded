#pragma once

#include <map>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "model/stored_tensor.h"

namespace tangram {

// A file in the safetensors format (https://github.com/huggingface/safetensors), mapped. The file
// is user input: every size is checked before it is used, and tensors must cover the data without
// holes or overlaps, as the format demands.
class SafetensorsFile {
 public:
  // kLoad, naming the file, if it cannot be read, kUnsupported if it is short or malformed.
  static Result<SafetensorsFile> Open(const std::string& path);
  // The same of bytes in memory; `name` is for messages.
  static Result<SafetensorsFile> Parse(Buffer file, const std::string& name);

  const std::vector<StoredTensor>& tensors() const { return tensors_; }
  // The tensor of that name, or an empty view.
  TensorView Find(std::string_view name) const;
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  // What keeps the tensors' memory alive.
  const std::vector<Buffer>& owners() const { return owners_; }

 private:
  std::vector<StoredTensor> tensors_;
  std::map<std::string, std::string> metadata_;
  std::vector<Buffer> owners_;
};

// Writes a file in the format: f32 tensors and metadata. Replaces `path` at once when all is
// written, or not at all.
struct NamedTensor {
  std::string name;
  Shape shape;
  std::span<const float> values;
};
Status WriteSafetensors(const std::string& path, const std::vector<NamedTensor>& tensors,
                        const std::map<std::string, std::string>& metadata);

// The paths of a model folder's safetensors files: model.safetensors, or the shards that
// model.safetensors.index.json names. kLoad if there are none, kUnsupported if a shard's name
// leaves the folder.
Result<std::vector<std::string>> FindSafetensors(const std::string& folder);

}  // namespace tangram
