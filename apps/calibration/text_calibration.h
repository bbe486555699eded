#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "calibration/calibration.h"
#include "engine_options.h"
#include "text_model.h"

namespace tangram::apps {

// The texts that a model is calibrated on.
struct CalibrationTexts {
  std::vector<std::string> files;  // read one after the other, "bundled" for ours; empty: ours
  int num_samples = 0;  // pieces that they are cut into; 0: as many as there are, up to 12
  int sample_tokens = 2048;
};

// Calibrates the model on these texts, with a bar on a terminal, or a line for each tenth, on
// stderr. kInvalidArgument if a file cannot be read or holds too little.
Result<Profile> CalibrateOnTexts(Model& model, ops::Backend& backend, const TextModel& text,
                                 const CalibrationTexts& texts, CalibrationOptions options);

// Loads the model and starts an engine on it. Where compression finds no profile, it is calibrated
// first, on the bundled text, and the profile kept.
Result<std::unique_ptr<Engine>> LoadEngine(const EngineConfig& config, const TextConfig& text);

}  // namespace tangram::apps
