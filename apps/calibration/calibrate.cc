// tangram calibrate: measures which heads of a model need how much of the KV cache, and fits the
// gate that says which tokens.

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <iterator>

#include "calibration/sample_text.h"
#include "command.h"
#include "engine/calibration.h"
#include "engine_options.h"
#include "exit_codes.h"
#include "text_model.h"

namespace tangram {
namespace {

// Asks for the repetition whose attention labels the tokens (KVzip, arXiv 2505.23416).
constexpr const char* kRepeatPrompt = "\n\nRepeat the previous part exactly:\n";

struct CalibrateConfig {
  std::string model, texts, output;
  int num_samples = 12;
  int sample_tokens = 2048;
  int num_threads = 0;
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
  options.Add("texts", &config.texts, "a file of text to learn from; empty: the bundled one");
  options.Add("num-samples", &config.num_samples, "pieces that the text is cut into");
  options.Add("sample-tokens", &config.sample_tokens, "tokens of a piece");
  options.Add("compression-chunk-size", &config.calibration.compression.chunk,
              "tokens between compressions");
  options.Add("num-threads", &config.num_threads, "0: one a core").Alias("-t");
}

Result<std::string> ReadText(const std::string& path) {
  if (path.empty()) return std::string(SampleText());
  std::ifstream file(path, std::ios::binary);
  std::string text{std::istreambuf_iterator<char>(file), {}};
  if (text.empty()) {
    return MakeError(ErrorKind::kInvalidArgument, fmt::format("{}: no text in it", path), "texts");
  }
  return text;
}

// Pieces of equal length from one text.
Result<std::vector<std::vector<TokenId>>> CutSamples(const std::vector<TokenId>& tokens,
                                                     const CalibrateConfig& config) {
  const auto length = static_cast<size_t>(std::max(1, config.sample_tokens));
  const auto count = static_cast<size_t>(std::max(1, config.num_samples));
  if (tokens.size() < length * count) {
    return MakeError(
        ErrorKind::kInvalidArgument,
        fmt::format("the text has {} tokens, and {} samples of {} need {}; give a longer "
                    "one with --texts, or ask for fewer",
                    tokens.size(), count, length, length * count),
        "num_samples");
  }
  std::vector<std::vector<TokenId>> samples;
  for (size_t i = 0; i < count; ++i) {
    const auto first = tokens.begin() + static_cast<ptrdiff_t>(i * length);
    samples.emplace_back(first, first + static_cast<ptrdiff_t>(length));
  }
  return samples;
}

// A bar on a terminal, a line for each tenth elsewhere.
class Progress {
 public:
  void operator()(double share) {
    const int tenths = static_cast<int>(share * 10);
    if (isatty(STDERR_FILENO)) {
      const int width = static_cast<int>(share * 40);
      fmt::print(stderr, "\rcalibrating [{:<40}] {:3.0f}%{}", std::string(width, '#'), share * 100,
                 share >= 1 ? "\n" : "");
    } else if (tenths > shown_) {
      fmt::print(stderr, "calibrating: {}%\n", tenths * 10);
    }
    shown_ = tenths;
  }

 private:
  int shown_ = 0;
};

void Report(const Profile& profile, const std::string& path, double seconds) {
  fmt::print("{}: {} samples of {} tokens in {:.0f} s\n", path, profile.num_samples,
             profile.sample_tokens, seconds);
  fmt::print("{:<16} rank correlation of a sample's heads with the mean's (worst, mean)\n",
             "scorer");
  for (const auto& [scorer, s] : profile.scorers) {
    double sum = 0;
    for (float v : s.stability) sum += v;
    fmt::print("{:<16} {:.3f}  {:.3f}\n", ScorerName(scorer),
               *std::ranges::min_element(s.stability),
               sum / static_cast<double>(s.stability.size()));
  }
}

Status RunCalibration(CalibrateConfig& config) {
  const auto start = std::chrono::steady_clock::now();
  TANGRAM_ASSIGN_OR_RETURN(const TextModel text, LoadTextModel(config.model, config.text));
  TANGRAM_ASSIGN_OR_RETURN(const std::string words, ReadText(config.texts));
  TANGRAM_ASSIGN_OR_RETURN(const auto tokens, text.tokenizer->Encode(words, false));
  TANGRAM_ASSIGN_OR_RETURN(const auto samples, CutSamples(tokens, config));
  TANGRAM_ASSIGN_OR_RETURN(const auto repeat, text.tokenizer->Encode(kRepeatPrompt, false));
  auto backend = ops::CreateCpuBackend(config.num_threads);
  LoadOptions load;
  load.max_num_tokens = config.calibration.compression.chunk + static_cast<int>(repeat.size());
  load.max_logit_rows = 1;
  TANGRAM_ASSIGN_OR_RETURN(auto model, LoadModel(config.model, load, *backend));
  config.calibration.progress = Progress();
  TANGRAM_ASSIGN_OR_RETURN(const Profile profile,
                           Calibrate(*model, *backend, samples, repeat, config.calibration));
  if (config.output.empty()) config.output = config.model + ".profile.safetensors";
  TANGRAM_RETURN_IF_ERROR(SaveProfile(profile, config.output));
  Report(profile, config.output,
         std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
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
    return Fail({ErrorKind::kInvalidArgument, "name a model: tangram calibrate MODEL", "--model"});
  }
  if (auto status = RunCalibration(config); !status) return Fail(status.error());
  return kExitOk;
}

}  // namespace tangram
