#include "compression/find_profile.h"

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <optional>
#include <string_view>
#include <vector>

#include "base/log.h"

namespace tangram {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kExtension = ".profile.safetensors";

bool Exists(const std::string& path) {
  std::error_code ignored;
  return !path.empty() && fs::exists(path, ignored);
}

// A faulty file is the mistake of who named it, or left it beside the model: no restart mends it.
Result<FoundProfile> LoadFitting(const std::string& path, std::string origin, const Model& model) {
  auto profile = LoadProfile(path);
  if (!profile) {
    return MakeError(ErrorKind::kInvalidArgument, std::move(profile.error().message),
                     "compression_profile");
  }
  TANGRAM_RETURN_IF_ERROR(CheckProfile(*profile, model, path));
  if (!profile->imported_from.empty()) origin += ", imported from " + profile->imported_from;
  return FoundProfile{std::move(*profile), path, std::move(origin)};
}

bool Serves(const Profile& profile, const CompressionConfig& config) {
  const auto it = profile.scorers.find(config.scorer);
  return it != profile.scorers.end() && it->second.demand.ratios.front() <= config.ratio;
}

// An outdated one is used: whoever named it, or calibrated by hand, may have reasons to keep it.
Result<FoundProfile> LoadGiven(const std::string& path, std::string origin, const Model& model) {
  auto found = LoadFitting(path, std::move(origin), model);
  if (found && IsOutdated(found->profile)) {
    LogWarning(
        "{} was calibrated by an earlier version of Tangram, and is used as it is; 'tangram "
        "calibrate' learns more from the same texts now",
        path);
  }
  return found;
}

// What speaks against using a cached profile as it is; empty: nothing.
std::string FaultOf(const Result<FoundProfile>& found, const std::string& path,
                    const CompressionConfig& config) {
  if (!found) return found.error().message;
  if (!Serves(found->profile, config)) {
    return fmt::format("{} does not know the scorer {} at ratio {:.2f}", path,
                       ScorerName(config.scorer), config.ratio);
  }
  if (IsOutdated(found->profile)) {
    return path + " was calibrated by an earlier version of Tangram";
  }
  return {};
}

// One that nobody named: it is used only if nothing speaks against it.
std::optional<FoundProfile> LoadUnnamed(const std::string& path, std::string origin,
                                        const Model& model, const CompressionConfig& config) {
  if (!Exists(path)) return std::nullopt;
  auto found = LoadFitting(path, std::move(origin), model);
  const std::string fault = FaultOf(found, path, config);
  if (fault.empty()) return std::move(*found);
  LogWarning("{}; it is not used", fault);
  return std::nullopt;
}

std::vector<fs::path> ProfilesIn(const std::string& folder) {
  std::vector<fs::path> paths;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(folder, ignored)) {
    if (entry.path().string().ends_with(kExtension)) paths.push_back(entry.path());
  }
  std::ranges::sort(paths);
  return paths;
}

// The file of this model in the folder, whatever either is called; empty if there is none.
std::string ShippedPath(const std::string& folder, const Model& model) {
  for (const fs::path& path : ProfilesIn(folder)) {
    const auto profile = LoadProfile(path);
    if (!profile) LogWarning("{}; it is not used", profile.error().message);
    if (profile && profile->model_fingerprint == model.fingerprint()) return path;
  }
  return {};
}

// The model's path without a slash behind it.
fs::path WithoutSlash(const std::string& model_path) {
  const fs::path model(model_path);
  return model.has_filename() ? model : model.parent_path();
}

// A profile that cannot be kept serves this once.
std::string Keep(const Profile& profile, const std::string& path) {
  std::error_code error;
  if (path.empty()) {
    LogWarning("The profile is not kept: neither XDG_CACHE_HOME nor HOME is set");
    return "not kept";
  }
  fs::create_directories(fs::path(path).parent_path(), error);
  const Status saved = error ? MakeError(ErrorKind::kLoad, path + ": " + error.message())
                             : SaveProfile(profile, path);
  if (saved) {
    LogInfo("The profile is kept in {}: later starts find it there", path);
    return path;
  }
  LogWarning("The profile is not kept, and the next start calibrates again: {}",
             saved.error().message);
  return "not kept";
}

}  // namespace

std::string ProfilePathBeside(const std::string& model_path) {
  return WithoutSlash(model_path).string() + std::string(kExtension);
}

std::string ShippedProfileByName(const std::string& shipped, const std::string& model_path) {
  const std::string model = WithoutSlash(model_path).filename();
  for (const fs::path& path : ProfilesIn(shipped)) {
    std::string name = path.filename();
    name.resize(name.size() - kExtension.size());
    if (model == name || model.starts_with(name + ".")) return path;
  }
  return {};
}

std::string ProfilePathInCache(uint64_t model_fingerprint) {
  const char* cache = std::getenv("XDG_CACHE_HOME");
  const char* home = std::getenv("HOME");
  fs::path folder;
  if (cache != nullptr && *cache != '\0') {
    folder = cache;
  } else if (home != nullptr && *home != '\0') {
    folder = fs::path(home) / ".cache";
  } else {
    return {};
  }
  return folder / "tangram" / fmt::format("{:016x}{}", model_fingerprint, kExtension);
}

Result<std::optional<FoundProfile>> FindProfile(const CompressionOptions& options,
                                                const Model& model) {
  if (!options.compression_profile.empty()) {
    return LoadGiven(options.compression_profile, "named by --compression-profile", model);
  }
  const std::string beside = ProfilePathBeside(options.model_path);
  if (Exists(beside)) return LoadGiven(beside, "beside the model", model);
  const CompressionConfig& config = options.compression;
  auto shipped = LoadUnnamed(ShippedPath(options.shipped_profiles, model), "shipped with Tangram",
                             model, config);
  if (shipped) return shipped;
  return LoadUnnamed(ProfilePathInCache(model.fingerprint()), "kept by an earlier start", model,
                     config);
}

Error NoProfileError(const CompressionOptions& options) {
  return {ErrorKind::kInvalidArgument,
          fmt::format("compression needs a profile of the model, and there is none at {}, none of "
                      "this model came with Tangram, and the user's cache holds none; make it with "
                      "'tangram calibrate {}', or name one with --compression-profile",
                      ProfilePathBeside(options.model_path), options.model_path),
          "compression_profile"};
}

FoundProfile KeepProfile(Profile profile, const Model& model) {
  std::string kept = Keep(profile, ProfilePathInCache(model.fingerprint()));
  return {std::move(profile), std::move(kept), "calibrated at this start"};
}

}  // namespace tangram
