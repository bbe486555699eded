#include "compression/profile.h"

#include <fmt/ranges.h>

#include <charconv>
#include <cmath>

#include "compression/profile_import.h"
#include "compression/reconstruction_pass.h"
#include "model/mapped_file.h"
#include "model/safetensors.h"

namespace tangram {
namespace {

constexpr std::string_view kFormat = "tangram-profile-1";

std::vector<float> Copy(const TensorView& view) {
  const auto* values = view.as<float>();
  return {values, values + view.shape.count()};
}

// Reads tensors and numbers of a profile; the first fault becomes `status`.
class ProfileReader {
 public:
  ProfileReader(const SafetensorsFile& file, std::string path)
      : file_(file), path_(std::move(path)) {}

  template <class T>
  T Number(const std::string& key, T least, T most) {
    const auto it = file_.metadata().find(key);
    T value{};
    if (it != file_.metadata().end()) {
      const std::string& text = it->second;
      const auto parsed = std::from_chars(text.data(), text.data() + text.size(), value);
      if (parsed.ec == std::errc() && parsed.ptr == text.data() + text.size() && value >= least &&
          value <= most) {
        return value;
      }
    }
    Fail(fmt::format("metadata '{}' is missing or out of range", key));
    return least;
  }
  std::vector<float> Values(const std::string& name, const Shape& shape) {
    const TensorView view = file_.Find(name);
    if (view.empty() || view.dtype != DType::kF32 || view.shape != shape) {
      Fail(fmt::format("tensor '{}' is missing or of another shape", name));
      return {};
    }
    std::vector<float> values = Copy(view);
    for (float v : values) {
      if (!std::isfinite(v)) Fail(fmt::format("tensor '{}' has values that are not finite", name));
    }
    return values;
  }
  void Fail(const std::string& why) {
    if (status_) status_ = MakeError(ErrorKind::kUnsupported, fmt::format("{}: {}", path_, why));
  }
  // Numbers with commas between; none if there is no such key.
  std::vector<int32_t> Tokens(const std::string& key, size_t most) {
    const auto it = file_.metadata().find(key);
    if (it == file_.metadata().end()) return {};
    std::vector<int32_t> tokens;
    const char *at = it->second.data(), *end = at + it->second.size();
    while (at < end && tokens.size() < most) {
      int32_t token = -1;
      const auto parsed = std::from_chars(at, end, token);
      if (parsed.ec != std::errc() || token < 0) break;
      tokens.push_back(token);
      at = parsed.ptr;
      if (at < end && *at == ',') ++at;
    }
    if (at < end) Fail(fmt::format("metadata '{}' is no list of at most {} tokens", key, most));
    return tokens;
  }
  const Status& status() const { return status_; }

 private:
  const SafetensorsFile& file_;
  std::string path_;
  Status status_;
};

ScorerProfile ReadScorer(ProfileReader& reader, const SafetensorsFile& file, const Profile& profile,
                         const std::string& name) {
  ScorerProfile scorer;
  HeadDemand& demand = scorer.demand;
  demand.num_layers = profile.num_layers;
  demand.num_kv_heads = profile.num_kv_heads;
  const TensorView ratios = file.Find(name + ".ratios");
  if (ratios.empty() || ratios.shape.rank() != 1 || ratios.shape[0] < 1 || ratios.shape[0] > 100) {
    reader.Fail(fmt::format("tensor '{}.ratios' is missing or of another shape", name));
    return scorer;
  }
  const int64_t count = ratios.shape[0];
  demand.ratios = reader.Values(name + ".ratios", {count});
  for (size_t i = 0; i < demand.ratios.size(); ++i) {
    const float previous = i == 0 ? 0.0f : demand.ratios[i - 1];
    if (!(demand.ratios[i] > previous && demand.ratios[i] < 1))
      reader.Fail(name + ": ratios do not ascend from 0 to 1");
  }
  const Shape shape{count, profile.num_layers, profile.num_kv_heads};
  demand.shares = reader.Values(name + ".demand", shape);
  for (float v : demand.shares) {
    if (v < 0 || v > 1) reader.Fail(name + ": a demand lies outside 0 to 1");
  }
  scorer.spread = reader.Values(name + ".spread", shape);
  scorer.stability = reader.Values(name + ".stability", {profile.num_samples});
  return scorer;
}

}  // namespace

bool IsOutdated(const Profile& profile) {
  return profile.imported_from.empty() && profile.calibration_version < kCalibrationVersion;
}

Status SaveProfile(const Profile& p, const std::string& path) {
  const Shape heads{p.num_layers, p.num_kv_heads};
  std::vector<NamedTensor> tensors;
  if (!p.gate_weight.empty()) {
    tensors.push_back(
        {"gate.weight", {p.num_layers, p.num_kv_heads, p.hidden_size}, p.gate_weight});
    tensors.push_back({"gate.bias", heads, p.gate_bias});
  }
  for (const auto& [scorer, s] : p.scorers) {
    const std::string name(ScorerName(scorer));
    const auto count = static_cast<int64_t>(s.demand.ratios.size());
    const Shape shape{count, p.num_layers, p.num_kv_heads};
    tensors.push_back({name + ".ratios", {count}, s.demand.ratios});
    tensors.push_back({name + ".demand", shape, s.demand.shares});
    tensors.push_back({name + ".spread", shape, s.spread});
    tensors.push_back(
        {name + ".stability", {static_cast<int64_t>(s.stability.size())}, s.stability});
  }
  std::map<std::string, std::string> metadata = {
      {"format", std::string(kFormat)},
      {"calibration_version", std::to_string(p.calibration_version)},
      {"model_fingerprint", std::to_string(p.model_fingerprint)},
      {"num_layers", std::to_string(p.num_layers)},
      {"num_kv_heads", std::to_string(p.num_kv_heads)},
      {"hidden_size", std::to_string(p.hidden_size)},
      {"num_samples", std::to_string(p.num_samples)},
      {"sample_tokens", std::to_string(p.sample_tokens)},
      {"repeat_prompt", fmt::format("{}", fmt::join(p.repeat_prompt, ","))}};
  if (!p.imported_from.empty()) metadata["imported_from"] = p.imported_from;
  return WriteSafetensors(path, tensors, metadata);
}

Result<Profile> LoadProfile(const std::string& path) {
  TANGRAM_ASSIGN_OR_RETURN(Buffer file, MapFile(path));
  return ParseProfile(std::move(file), path);
}

Result<Profile> ParseProfile(Buffer bytes, const std::string& name) {
  if (NpzFile::LooksLike(bytes)) {
    TANGRAM_ASSIGN_OR_RETURN(const NpzFile npz, NpzFile::Parse(bytes, name));
    return ImportProfile(npz, name);
  }
  TANGRAM_ASSIGN_OR_RETURN(const SafetensorsFile file,
                           SafetensorsFile::Parse(std::move(bytes), name));
  const auto& metadata = file.metadata();
  const auto format = metadata.find("format");
  if (format == metadata.end() || format->second != kFormat) {
    return MakeError(ErrorKind::kUnsupported,
                     fmt::format("{}: no profile; make one with 'tangram calibrate'", name));
  }
  ProfileReader reader(file, name);
  Profile p;
  constexpr int kMany = 1 << 20;
  p.model_fingerprint = reader.Number<uint64_t>("model_fingerprint", 0, UINT64_MAX);
  if (const auto it = metadata.find("imported_from"); it != metadata.end()) {
    p.imported_from = it->second;
  }
  p.calibration_version =
      metadata.contains("calibration_version") ? reader.Number("calibration_version", 1, kMany) : 1;
  p.num_layers = reader.Number("num_layers", 1, kMany);
  p.num_kv_heads = reader.Number("num_kv_heads", 1, kMany);
  p.hidden_size = reader.Number("hidden_size", 0, kMany);
  p.num_samples = reader.Number("num_samples", 1, kMany);
  p.sample_tokens = reader.Number("sample_tokens", 1, kMany);
  p.repeat_prompt = reader.Tokens("repeat_prompt", ReconstructionPass::kMaxPrompt);
  if (!file.Find("gate.weight").empty() || !file.Find("gate.demand").empty()) {
    p.gate_weight = reader.Values("gate.weight", {p.num_layers, p.num_kv_heads, p.hidden_size});
    p.gate_bias = reader.Values("gate.bias", {p.num_layers, p.num_kv_heads});
  }
  for (const Scorer scorer : AllScorers()) {
    const std::string key(ScorerName(scorer));
    if (file.Find(key + ".demand").empty()) continue;
    p.scorers[scorer] = ReadScorer(reader, file, p, key);
  }
  if (p.scorers.empty()) reader.Fail("it knows no scorer");
  if (!reader.status()) return tl::unexpected<Error>(reader.status().error());
  return p;
}

Status CheckProfileHeads(const Profile& profile, const ModelConfig& config,
                         const std::string& path) {
  if (profile.num_layers == config.num_layers &&
      profile.num_kv_heads == config.num_key_value_heads) {
    return {};
  }
  return MakeError(
      ErrorKind::kInvalidArgument,
      fmt::format(
          "{}: this profile was made for another model: it has {} layers of {} KV heads, and "
          "this one has {} of {}; make one with 'tangram calibrate'",
          path, profile.num_layers, profile.num_kv_heads, config.num_layers,
          config.num_key_value_heads),
      "compression_profile");
}

Status CheckProfile(const Profile& profile, const Model& model, const std::string& path) {
  TANGRAM_RETURN_IF_ERROR(CheckProfileHeads(profile, model.config(), path));
  const bool same_weights =
      profile.model_fingerprint == 0 || profile.model_fingerprint == model.fingerprint();
  const bool fits =
      profile.gate_weight.empty() || profile.hidden_size == model.config().hidden_size;
  if (same_weights && fits) return {};
  return MakeError(ErrorKind::kInvalidArgument,
                   fmt::format("{}: this profile was made for another model, with other weights; "
                               "make one for this one with 'tangram calibrate'",
                               path),
                   "compression_profile");
}

}  // namespace tangram
