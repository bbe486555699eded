#include "calibration/text_calibration.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <iterator>

#include "base/log.h"
#include "calibration/sample_text.h"

namespace tangram::apps {
namespace {

// Asks for the repetition whose attention labels the tokens (KVzip, arXiv 2505.23416).
constexpr const char* kRepeatPrompt = "\n\nRepeat the previous part exactly:\n";
constexpr int kDefaultSamples = 12;

Result<std::string> ReadTexts(const std::vector<std::string>& files) {
  if (files.empty()) return std::string(SampleText());
  std::string all;
  for (const std::string& path : files) {
    if (path == "bundled") {
      all += SampleText();
      continue;
    }
    std::ifstream file(path, std::ios::binary);
    const std::string text{std::istreambuf_iterator<char>(file), {}};
    if (text.empty()) {
      return MakeError(ErrorKind::kInvalidArgument,
                       fmt::format("{}: the file is missing or empty", path), "texts");
    }
    all += text;
  }
  return all;
}

// Pieces of equal length from one text.
Result<std::vector<std::vector<TokenId>>> CutSamples(const std::vector<TokenId>& tokens,
                                                     const CalibrationTexts& texts) {
  const auto length = static_cast<size_t>(std::max(1, texts.sample_tokens));
  const size_t there = tokens.size() / length;
  const size_t wanted = static_cast<size_t>(std::max(0, texts.num_samples));
  const size_t count = wanted > 0 ? wanted : std::min<size_t>(there, kDefaultSamples);
  if (count == 0 || there < count) {
    return MakeError(ErrorKind::kInvalidArgument,
                     fmt::format("the text has {} tokens, and {} samples of {} need {}; give a "
                                 "longer one with --texts, or ask for fewer",
                                 tokens.size(), std::max<size_t>(count, 1), length,
                                 length * std::max<size_t>(count, 1)),
                     "num_samples");
  }
  std::vector<std::vector<TokenId>> samples;
  for (size_t i = 0; i < count; ++i) {
    const auto first = tokens.begin() + static_cast<ptrdiff_t>(i * length);
    samples.emplace_back(first, first + static_cast<ptrdiff_t>(length));
  }
  return samples;
}

class Progress {
 public:
  void operator()(double share) {
    const int tenths = static_cast<int>(share * 10 + 1e-9);
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

// What is measured at a start without a profile: what serving needs, and no less than usual.
CalibrationOptions OptionsFor(const EngineConfig& config) {
  CalibrationOptions options;
  options.compression = config.compression;
  options.page_size = config.page_size;
  options.compression_gate = config.compression_gate;
  const float ratio = config.compression.ratio;
  if (ratio < options.ratios.front()) options.ratios.insert(options.ratios.begin(), ratio);
  return options;
}

Result<Profile> MakeProfile(const EngineConfig& config, const TextConfig& text_config, Model& model,
                            ops::Backend& backend) {
  const auto start = std::chrono::steady_clock::now();
  const CalibrationOptions options = OptionsFor(config);
  if (config.compression.scorer == Scorer::kFastKvzip && config.compression_gate.empty()) {
    return MakeError(ErrorKind::kInvalidArgument,
                     "--compression-scorer fastkvzip needs --compression-gate-path, the gates that "
                     "were trained for the model",
                     "compression_gate_path");
  }
  const int longest = model.config().max_position_embeddings;
  if (longest < config.compression.chunk) {
    return MakeError(ErrorKind::kInvalidArgument,
                     fmt::format("--compression-chunk-size {}: the model's contexts end at {} "
                                 "tokens, so that nothing would ever be compressed",
                                 config.compression.chunk, longest),
                     "compression_chunk_size");
  }
  TANGRAM_ASSIGN_OR_RETURN(const TextModel text, LoadTextModel(config.model_path, text_config));
  CalibrationTexts texts;
  texts.sample_tokens = std::min(std::max(texts.sample_tokens, config.compression.chunk), longest);
  TANGRAM_ASSIGN_OR_RETURN(Profile profile, CalibrateOnTexts(model, backend, text, texts, options));
  LogInfo("Calibration took {:.0f} seconds ({} samples of {} tokens of the bundled text)",
          std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count(),
          profile.num_samples, profile.sample_tokens);
  return profile;
}

}  // namespace

Result<Profile> CalibrateOnTexts(Model& model, ops::Backend& backend, const TextModel& text,
                                 const CalibrationTexts& texts, CalibrationOptions options) {
  TANGRAM_ASSIGN_OR_RETURN(const std::string words, ReadTexts(texts.files));
  TANGRAM_ASSIGN_OR_RETURN(const auto tokens, text.tokenizer->Encode(words, false));
  TANGRAM_ASSIGN_OR_RETURN(const auto samples, CutSamples(tokens, texts));
  TANGRAM_ASSIGN_OR_RETURN(const auto repeat, text.tokenizer->Encode(kRepeatPrompt, false));
  const auto largest = std::ranges::max_element(tokens);
  if (largest != tokens.end() && *largest >= model.config().vocab_size) {
    return MakeError(
        ErrorKind::kUnsupported,
        fmt::format("the tokenizer gives token id {}, but the model's vocabulary has {} tokens",
                    *largest, model.config().vocab_size));
  }
  options.progress = Progress();
  return Calibrate(model, backend, samples, repeat, options);
}

namespace {

Result<FoundProfile> FindOrMakeProfile(const EngineConfig& config, const TextConfig& text,
                                       LoadedModel& loaded) {
  TANGRAM_ASSIGN_OR_RETURN(auto found, FindProfile(config, *loaded.model));
  if (found) return std::move(*found);
  LogInfo(
      "There is no profile of this model at {}, among those that came with Tangram, or in the "
      "user's cache: one is made now, and kept for later starts",
      ProfilePathBeside(config.model_path));
  TANGRAM_ASSIGN_OR_RETURN(Profile made, MakeProfile(config, text, *loaded.model, *loaded.backend));
  return KeepProfile(std::move(made), *loaded.model);
}

}  // namespace

Result<std::unique_ptr<Engine>> LoadEngine(EngineConfig config, const TextConfig& text) {
  TANGRAM_ASSIGN_OR_RETURN(LoadedModel loaded, LoadForServing(config));
  if (!config.compression.enabled()) return Engine::Create(config, std::move(loaded), nullptr);
  TANGRAM_ASSIGN_OR_RETURN(const FoundProfile profile, FindOrMakeProfile(config, text, loaded));
  return Engine::Create(config, std::move(loaded), &profile);
}

}  // namespace tangram::apps
