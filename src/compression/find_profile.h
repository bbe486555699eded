#pragma once

#include <optional>
#include <string>

#include "base/result.h"
#include "compression/options.h"
#include "compression/profile.h"
#include "model/model.h"

namespace tangram {

// A profile that fits the model and the options, and where it came from, for people.
struct FoundProfile {
  Profile profile;
  std::string path, origin;
};

// The profile of options.compression: the one that is named; else MODEL.profile.safetensors, beside
// the model; else the one of these weights that came with the program; else what an earlier start
// kept in the user's cache; else none. kInvalidArgument, naming file and remedy, if the named one
// or the one beside the model is corrupt or another model's. A shipped or cached one that does not
// serve, or that an earlier version calibrated, counts as none; an outdated one that was given is
// used, with a warning.
Result<std::optional<FoundProfile>> FindProfile(const CompressionOptions& options,
                                                const Model& model);
// The error for those who cannot make one: where it was looked for, and how it is made.
Error NoProfileError(const CompressionOptions& options);
// Keeps a profile that was just made in the user's cache, for later starts.
FoundProfile KeepProfile(Profile profile, const Model& model);

// Where `tangram calibrate` writes it, and FindProfile looks first.
std::string ProfilePathBeside(const std::string& model_path);

// The profile in the folder `shipped` that is named as the model is: NAME.profile.safetensors of
// NAME or NAME.Q4_1.gguf; empty if there is none. For those who have not read the weights.
std::string ShippedProfileByName(const std::string& shipped, const std::string& model_path);

// $XDG_CACHE_HOME/tangram/<fingerprint>.profile.safetensors, or the same in ~/.cache; empty if
// neither variable is set.
std::string ProfilePathInCache(uint64_t model_fingerprint);

}  // namespace tangram
