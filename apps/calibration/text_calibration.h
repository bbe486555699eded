#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "engine/calibration.h"
#include "engine_options.h"
#include "text_model.h"

namespace tangram {

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

// For Engine::Create: calibrates on the bundled text where no profile is found.
ProfileMaker MakeProfileOnBundledText(const EngineConfig& config, const TextConfig& text);

}  // namespace tangram
