#include "compression/fastkvzip.h"

#include <cmath>

#include "model/safetensors.h"

namespace tangram {
namespace {

constexpr std::string_view kFormat = "tangram-fastkvzip-1";

class Reader {
 public:
  Reader(const SafetensorsFile& file, std::string path, ops::Backend& backend)
      : file_(file), path_(std::move(path)), backend_(backend) {}

  // An f32 tensor of that shape, where a dimension of 0 is any. The first fault becomes `status`.
  TensorView Read(const std::string& name, const Shape& shape) {
    const TensorView view = file_.Find(name);
    bool fits = !view.empty() && view.dtype == DType::kF32 && view.shape.rank() == shape.rank();
    for (int i = 0; fits && i < shape.rank(); ++i)
      fits = shape[i] == 0 || shape[i] == view.shape[i];
    for (int64_t i = 0; fits && i < view.shape.count(); ++i) {
      fits = std::isfinite(view.as<float>()[i]);
    }
    if (fits) {
      const TensorView uploaded = backend_.Upload(view);
      if (!uploaded.empty()) return uploaded;
      status_ = MakeError(ErrorKind::kOutOfMemory, "not enough memory for the gates of " + path_);
    } else if (status_) {
      status_ = MakeError(ErrorKind::kUnsupported,
                          fmt::format("{}: tensor '{}' is missing, not finite, or not of this "
                                      "model's shape; convert the gates that were trained for it",
                                      path_, name),
                          "compression_gate_path");
    }
    return {nullptr, DType::kF32, {1, 1, 1, 1}};
  }
  const Status& status() const { return status_; }

 private:
  const SafetensorsFile& file_;
  std::string path_;
  ops::Backend& backend_;
  Status status_;
};

ops::FastKvzipGate ReadLayer(Reader& reader, int layer, const ModelConfig& model) {
  const auto name = [&](const char* tensor) { return fmt::format("layers.{}.{}", layer, tensor); };
  const int64_t heads = model.num_key_value_heads, width = model.hidden_size;
  const int64_t group = model.num_attention_heads / heads;
  ops::FastKvzipGate gate;
  gate.q_norm = reader.Read(name("q_norm.weight"), {0});
  const int64_t size = gate.q_norm.shape[0];
  gate.k_norm = reader.Read(name("k_norm.weight"), {size});
  gate.q_weight = reader.Read(name("q_proj.weight"), {heads * group * size, width});
  gate.q_bias = reader.Read(name("q_proj.bias"), {heads * group * size});
  gate.k_weight = reader.Read(name("k_proj.weight"), {heads * size, width});
  gate.base = reader.Read(name("k_base"), {heads, 1, 0, size});
  gate.bias = reader.Read(name("b"), {heads, 1, group});
  return gate;
}

}  // namespace

Result<FastKvzipWeights> LoadFastKvzip(const std::string& path, const ModelConfig& model,
                                       ops::Backend& backend) {
  TANGRAM_ASSIGN_OR_RETURN(const SafetensorsFile file, SafetensorsFile::Open(path));
  const auto format = file.metadata().find("format");
  if (format == file.metadata().end() || format->second != kFormat) {
    return MakeError(ErrorKind::kUnsupported,
                     fmt::format("{}: no gates of Fast KVzip; convert the published .pt file with "
                                 "tools/convert_fastkvzip.py",
                                 path),
                     "compression_gate_path");
  }
  Reader reader(file, path, backend);
  FastKvzipWeights weights;
  for (int l = 0; l < model.num_layers; ++l) {
    const ops::FastKvzipGate gate = ReadLayer(reader, l, model);
    if (!reader.status()) return tl::unexpected<Error>(reader.status().error());
    weights.layers.push_back(gate);
  }
  // All layers' buffers are the first one's size.
  for (const ops::FastKvzipGate& gate : weights.layers) {
    if (gate.q_norm.shape != weights.layers.front().q_norm.shape) {
      return MakeError(ErrorKind::kUnsupported, fmt::format("{}: gates of several sizes", path),
                       "compression_gate_path");
    }
  }
  weights.owners = file.owners();
  return weights;
}

}  // namespace tangram
