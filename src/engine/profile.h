#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
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

// What `tangram calibrate` learns of a model, in one safetensors file: the gate, and each scorer's
// demand.
struct Profile {
  uint64_t model_fingerprint = 0;
  int num_layers = 0, num_kv_heads = 0, hidden_size = 0;
  int num_samples = 0, sample_tokens = 0;
  std::vector<float> gate_weight;      // [L, Hkv, D]
  std::vector<float> gate_bias;        // [L, Hkv]
  std::vector<int32_t> repeat_prompt;  // tokens that ask for a repetition; empty: not known
  std::map<Scorer, ScorerProfile> scorers;
};

Status SaveProfile(const Profile& profile, const std::string& path);
// kLoad, naming the file and the fault, if it is missing, corrupt or no profile.
Result<Profile> LoadProfile(const std::string& path);
// kInvalidArgument if the profile was made for another model.
Status CheckProfile(const Profile& profile, uint64_t model_fingerprint, const std::string& path);

// A scorer's name in flags, files and metrics: gate, reconstruction, fastkvzip, keydiff,
// expected_attention, snapkv, tova, streamingllm.
std::string_view ScorerName(Scorer scorer);
std::optional<Scorer> ParseScorer(std::string_view name);

}  // namespace tangram
