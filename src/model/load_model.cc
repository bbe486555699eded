#include <fmt/format.h>

#include <filesystem>

#include "base/log.h"
#include "model/config.h"
#include "model/gguf.h"
#include "model/model.h"
#include "model/safetensors.h"

namespace tangram {
namespace {

tl::unexpected<Error> NoSuchModel(const std::string& path) {
  return MakeError(ErrorKind::kLoad,
                   fmt::format("{}: no such file or folder; give a GGUF file or a folder with "
                               "config.json and safetensors (models are not downloaded)",
                               path));
}

// A folder has config.json; where files of llama.cpp lie, one of them is meant.
Status CheckFolder(const std::string& folder) {
  std::error_code ignored;
  if (std::filesystem::exists(std::filesystem::path(folder) / "config.json", ignored)) return {};
  std::string gguf;
  for (const auto& entry : std::filesystem::directory_iterator(folder, ignored)) {
    if (entry.path().extension() == ".gguf") gguf = entry.path();
  }
  return MakeError(ErrorKind::kLoad,
                   gguf.empty() ? fmt::format("{}: no config.json in this folder", folder)
                                : fmt::format("{}: no config.json in this folder; did you mean {}?",
                                              folder, gguf));
}

Result<std::unique_ptr<Model>> Build(ModelConfig config, const TensorNaming& naming,
                                     WeightSource& source, const LoadOptions& options,
                                     ops::Backend& backend) {
  const int served =
      options.max_model_len > 0 ? options.max_model_len : config.max_position_embeddings;
  TANGRAM_ASSIGN_OR_RETURN(DecoderWeights weights,
                           LoadDecoderWeights(config, naming, served, source, backend));
  return Model::Create(std::move(config), std::move(weights), options, backend);
}

Result<std::unique_ptr<Model>> LoadHf(const std::string& folder, const LoadOptions& options,
                                      ops::Backend& backend) {
  TANGRAM_RETURN_IF_ERROR(CheckFolder(folder));
  TANGRAM_ASSIGN_OR_RETURN(ModelConfig config, ReadHfConfig(folder));
  if (options.dummy_weights) {
    DummyWeights dummy(options.seed);
    return Build(std::move(config), kHfNaming, dummy, options, backend);
  }
  TANGRAM_ASSIGN_OR_RETURN(const auto paths, FindSafetensors(folder));
  StoredWeights stored(folder);
  for (const std::string& path : paths) {
    TANGRAM_ASSIGN_OR_RETURN(const SafetensorsFile file, SafetensorsFile::Open(path));
    TANGRAM_RETURN_IF_ERROR(stored.Add(file.tensors(), file.owners()));
  }
  return Build(std::move(config), kHfNaming, stored, options, backend);
}

Result<std::unique_ptr<Model>> LoadGguf(const std::string& path, const LoadOptions& options,
                                        ops::Backend& backend) {
  TANGRAM_ASSIGN_OR_RETURN(const GgufFile file, GgufFile::Open(path));
  TANGRAM_ASSIGN_OR_RETURN(ModelConfig config, ReadGgufConfig(file, path));
  if (options.dummy_weights) {
    DummyWeights dummy(options.seed);
    return Build(std::move(config), kGgufNaming, dummy, options, backend);
  }
  StoredWeights stored(path);
  TANGRAM_RETURN_IF_ERROR(stored.Add(file.tensors(), {file.owner()}));
  return Build(std::move(config), kGgufNaming, stored, options, backend);
}

}  // namespace

Result<ModelConfig> ReadModelConfig(const std::string& path) {
  std::error_code ignored;
  if (std::filesystem::is_directory(path, ignored)) {
    TANGRAM_RETURN_IF_ERROR(CheckFolder(path));
    return ReadHfConfig(path);
  }
  if (!std::filesystem::exists(path, ignored)) return NoSuchModel(path);
  TANGRAM_ASSIGN_OR_RETURN(const GgufFile file, GgufFile::Open(path));
  return ReadGgufConfig(file, path);
}

Result<std::unique_ptr<Model>> LoadModel(const std::string& path, const LoadOptions& options,
                                         ops::Backend& backend) {
  std::error_code ignored;
  if (std::filesystem::is_directory(path, ignored)) return LoadHf(path, options, backend);
  if (!std::filesystem::exists(path, ignored)) return NoSuchModel(path);
  return LoadGguf(path, options, backend);
}

}  // namespace tangram
