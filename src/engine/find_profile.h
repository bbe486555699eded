#pragma once

#include <string>

#include "base/result.h"
#include "engine/engine.h"
#include "engine/profile.h"
#include "model/model.h"
#include "ops/backend.h"

namespace tangram {

// A profile that fits the model and the options, and where it came from, for people.
struct FoundProfile {
  Profile profile;
  std::string path, origin;
};

// The profile of config.compression: the one that is named; else MODEL.profile.safetensors, beside
// the model; else what an earlier start kept in the user's cache; else `maker` makes one, and it is
// kept there. kInvalidArgument, naming file and remedy, if the named one or the one beside the
// model is corrupt or another model's, or if none is found and `maker` is empty. A cached one that
// does not serve, or that an earlier version calibrated, is made anew; an outdated one that was
// given is used, with a warning.
Result<FoundProfile> FindProfile(const EngineConfig& config, Model& model, ops::Backend& backend,
                                 const ProfileMaker& maker);

// Where `tangram calibrate` writes it, and FindProfile looks first.
std::string ProfilePathBeside(const std::string& model_path);

// $XDG_CACHE_HOME/tangram/<fingerprint>.profile.safetensors, or the same in ~/.cache; empty if
// neither variable is set.
std::string ProfilePathInCache(uint64_t model_fingerprint);

}  // namespace tangram
