#pragma once

#include <map>
#include <string>
#include <vector>

#include "base/result.h"
#include "model/model.h"
#include "paging/head_demand.h"
#include "tensor/tensor.h"

namespace tangram {

// What one scorer wants of a model's heads, measured at calibration.
struct ScorerProfile {
  HeadDemand demand;
  std::vector<float> spread;  // [ratios, L * Hkv], standard deviation over samples
  std::vector<float>
      stability;  // [samples], Spearman correlation of the sample's head ranking with the mean's
};

// Of what calibration learns, and so of every profile it writes: to be raised whenever a profile of
// the same model and texts would serve better made anew. 2: the gate's labels are what readers look
// at, too (docs/adr/0008-what-the-gate-learns.md).
inline constexpr int kCalibrationVersion = 2;

// What `tangram calibrate` learns of a model, in one safetensors file: the gate, and each scorer's
// demand.
struct Profile {
  uint64_t model_fingerprint = 0;                 // 0: unknown, of an imported profile
  std::string imported_from;                      // what it says of the model, if imported
  int calibration_version = kCalibrationVersion;  // 1: of a file that does not say; of an imported
                                                  // profile it means nothing
  int num_layers = 0, num_kv_heads = 0, hidden_size = 0;
  int num_samples = 0, sample_tokens = 0;
  std::vector<float> gate_weight;           // [L, Hkv, D]; empty: none, and the gate is no scorer
  std::vector<float> gate_bias;             // [L, Hkv]
  std::vector<int32_t> repeat_prompt;       // tokens that ask for a repetition; empty: not known
  std::map<Scorer, ScorerProfile> scorers;  // at least one, of a file
};

// Whether this program's calibration would learn other things than the one that made the profile.
bool IsOutdated(const Profile& profile);

// Replaces `path` when all is written, or not at all.
Status SaveProfile(const Profile& profile, const std::string& path);
// kLoad, naming the file and the fault, if it cannot be read, kUnsupported if it is corrupt or no
// profile. A published .npz is imported (compression/profile_import.h).
Result<Profile> LoadProfile(const std::string& path);
// The same of bytes in memory; `name` is for messages.
Result<Profile> ParseProfile(Buffer file, const std::string& name);
// kInvalidArgument if the profile was made for other heads than the model has.
Status CheckProfileHeads(const Profile& profile, const ModelConfig& config,
                         const std::string& path);
// The same, and if it was made for other weights.
Status CheckProfile(const Profile& profile, const Model& model, const std::string& path);

}  // namespace tangram
