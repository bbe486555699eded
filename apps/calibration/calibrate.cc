// tangram calibrate: measures which heads of a model need how much of the KV cache, and fits the
// gate that says which tokens; or imports a published profile.

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <filesystem>

#include "calibration/text_calibration.h"
#include "command.h"
#include "compression/find_profile.h"
#include "compression/reconstruction_pass.h"
#include "exit_codes.h"
#include "ops/create_backend.h"

namespace tangram::apps {
namespace {

struct CalibrateConfig {
  std::string model, output, import_path;
  std::string device = "auto";
  int num_threads = 0;
  CalibrationTexts texts;
  TextConfig text;
  CalibrationOptions calibration;
};

void Declare(Options& options, CalibrateConfig& config) {
  options.Group("Calibration");
  options.Add("model", &config.model, "a GGUF file, or a folder in Hugging Face form")
      .Positional()
      .Alias("-m");
  options.Add("output", &config.output, "the profile to write; empty: MODEL.profile.safetensors")
      .Alias("-o");
  options.Add("texts", &config.texts.files,
              "text files to learn from; `bundled`, or none: the text that comes with Tangram");
  options
      .Add("num-samples", &config.texts.num_samples,
           "pieces that the text is cut into; 0: as many as it holds, up to 12")
      .Alias("--samples");
  options.Add("sample-tokens", &config.texts.sample_tokens, "tokens per piece");
  options.Add("compression-chunk-size", &config.calibration.compression.chunk,
              "tokens between compressions");
  options.Add("compression-gate-path", &config.calibration.compression_gate,
              "gates of Fast KVzip, to measure that scorer too");
  options.Add("import", &config.import_path,
              "a published profile (.npz) to write in our form, instead of calibrating");
  options.Add("device", &config.device, "cpu, cuda, or auto").OneOf({"auto", "cpu", "cuda"});
  options.Add("num-threads", &config.num_threads, "of the CPU; 0: one a core").Alias("-t");
  options.Check([&config, &options]() -> Status {
    if (!config.import_path.empty()) {
      options.WarnOfNoEffect({"texts", "num-samples", "sample-tokens", "compression-chunk-size",
                              "compression-gate-path"},
                             "--import takes the profile as it is");
    }
    const CompressionConfig& c = config.calibration.compression;
    if (config.texts.num_samples < 0 || config.texts.sample_tokens < c.chunk) {
      return MakeError(ErrorKind::kInvalidArgument,
                       fmt::format("--num-samples must not be negative, and --sample-tokens at "
                                   "least a chunk, {} tokens",
                                   c.chunk),
                       "sample_tokens");
    }
    return CheckCompression(c, config.calibration.page_size);
  });
}

void Report(const Profile& profile, const std::string& path) {
  fmt::print("{}: {} samples of {} tokens\n", path, profile.num_samples, profile.sample_tokens);
  fmt::print("{:<18} rank correlation of a sample's heads with the mean's (worst, mean)\n",
             "scorer");
  for (const auto& [scorer, s] : profile.scorers) {
    double sum = 0;
    for (float v : s.stability) sum += v;
    fmt::print("{:<18} {:.3f}  {:.3f}\n", ScorerName(scorer),
               *std::ranges::min_element(s.stability),
               sum / static_cast<double>(s.stability.size()));
  }
}

Result<Profile> MeasureModel(CalibrateConfig& config) {
  TANGRAM_ASSIGN_OR_RETURN(const TextModel text, LoadTextModel(config.model, config.text));
  TANGRAM_ASSIGN_OR_RETURN(auto backend, ops::CreateBackend({.device = config.device,
                                                             .num_threads = config.num_threads}));
  LoadOptions load;
  load.max_num_tokens = config.calibration.compression.chunk + ReconstructionPass::kMaxPrompt;
  load.max_logit_rows = 1;
  TANGRAM_ASSIGN_OR_RETURN(auto model, LoadModel(config.model, load, *backend));
  return CalibrateOnTexts(*model, *backend, text, config.texts, config.calibration);
}

// The weights are not compared: a published profile tells no fingerprint.
Result<Profile> Import(const CalibrateConfig& config) {
  TANGRAM_ASSIGN_OR_RETURN(Profile profile, LoadProfile(config.import_path));
  TANGRAM_ASSIGN_OR_RETURN(const ModelConfig model, ReadModelConfig(config.model));
  TANGRAM_RETURN_IF_ERROR(CheckProfileHeads(profile, model, config.import_path));
  return profile;
}

// Said before minutes are spent on what could not be kept.
Status CheckFolder(const std::string& file) {
  const std::string folder = std::filesystem::absolute(file).parent_path();
  if (access((folder + "/.").c_str(), W_OK | X_OK) == 0) return {};
  return MakeError(ErrorKind::kLoad,
                   fmt::format("{}: cannot be written: {}: {}; name another file with -o", file,
                               folder, std::strerror(errno)),
                   "output");
}

Status WriteProfile(CalibrateConfig& config) {
  const auto start = std::chrono::steady_clock::now();
  const bool import = !config.import_path.empty();
  if (config.output.empty()) config.output = ProfilePathBeside(config.model);
  std::error_code ignored;  // a model that is not there is told by whoever loads it
  if (std::filesystem::exists(config.model, ignored)) {
    TANGRAM_RETURN_IF_ERROR(CheckFolder(config.output));
  }
  TANGRAM_ASSIGN_OR_RETURN(const Profile profile, import ? Import(config) : MeasureModel(config));
  TANGRAM_RETURN_IF_ERROR(SaveProfile(profile, config.output));
  Report(profile, config.output);
  if (import && profile.imported_from.empty()) {
    fmt::print("it was already a profile of Tangram's{}\n",
               IsOutdated(profile) ? ", calibrated by an earlier version of Tangram" : "");
  } else if (import) {
    fmt::print("imported from {}; such profiles do not say which weights they were measured on\n",
               profile.imported_from);
  } else {
    fmt::print("{:.0f} s\n",
               std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  return {};
}

}  // namespace

int RunCalibrate(Args args) {
  CalibrateConfig config;
  Options options("tangram calibrate MODEL [flags]",
                  "Writes the profile that --compression-ratio needs.");
  Declare(options, config);
  if (const auto code = ParseOrExit(options, std::move(args))) return *code;
  if (config.model.empty()) {
    return Fail({ErrorKind::kInvalidArgument, "name a model: tangram calibrate MODEL", "model"});
  }
  const Status status = WriteProfile(config);
  return status ? kExitOk : Fail(status.error());
}

}  // namespace tangram::apps
