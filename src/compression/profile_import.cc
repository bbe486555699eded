#include "compression/profile_import.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <numeric>

#include "compression/rank_correlation.h"

namespace tangram {
namespace {

using Json = nlohmann::json;

constexpr int64_t kMaxRatios = 100, kMaxSamples = 1 << 16, kMaxHeads = 1 << 20;
constexpr double kMinRatio = 0.005;  // rounds to the smallest table, 0.01

// One ratio's shares: means and deviations over samples, [L * H].
struct Point {
  double ratio;
  std::vector<float> shares, spread;
};

class Importer {
 public:
  Importer(const NpzFile& file, const std::string& name) : file_(file), name_(name) {}

  Result<Profile> Run() {
    TANGRAM_RETURN_IF_ERROR(ReadMeta());
    TANGRAM_RETURN_IF_ERROR(ReadArrays());
    std::vector<Point> points;
    for (size_t r = 0; r < nominal_.size(); ++r) points.push_back(Measure(r));
    std::ranges::sort(points, {}, &Point::ratio);
    const double largest = *std::ranges::max_element(nominal_);
    if (largest > points.back().ratio + 0.01) points.push_back(Enlarge(points.back(), largest));
    TANGRAM_RETURN_IF_ERROR(Fill(points));
    return std::move(profile_);
  }

 private:
  tl::unexpected<Error> Fail(std::string_view why) const {
    return MakeError(ErrorKind::kUnsupported, fmt::format("{}: {}", name_, why));
  }

  Status ReadMeta() {
    const NpyArray* meta = file_.Find("meta");
    if (meta == nullptr || meta->type != "|u1") return Fail("no profile: it has no 'meta'");
    const Json json = Json::parse(meta->bytes, nullptr, false);
    if (!json.is_object()) return Fail("its 'meta' is not a JSON object");
    const auto text = [&](const char* key) {
      const auto it = json.find(key);
      std::string value = it != json.end() && it->is_string() ? it->get<std::string>() : "";
      std::ranges::replace_if(
          value, [](unsigned char c) { return c < ' '; }, '?');  // it is shown
      return value;
    };
    const auto scorer = ParseScorer(text("scorer"));
    if (!scorer || *scorer == Scorer::kGate) {
      return Fail(fmt::format("measured with '{}', which is no scorer here", text("scorer")));
    }
    scorer_ = *scorer;
    const bool inside = text("level").ends_with("per_layer");
    profile_.imported_from =
        fmt::format("a published profile of {} (heads competing {})", text("model_name"),
                    inside ? "inside each layer" : "across layers");
    const auto tokens = json.find("ctx_len_min");
    const bool known = tokens != json.end() && tokens->is_number_unsigned() &&
                       tokens->get<uint64_t>() - 1 < kMaxHeads;
    profile_.sample_tokens = known ? tokens->get<int>() : 1;
    return {};
  }

  Status ReadArrays() {
    const NpyArray* raw = file_.Find("raw_ratio");
    const NpyArray* base = file_.Find("base_ratios");
    if (raw == nullptr || base == nullptr) return Fail("it has no 'raw_ratio' or 'base_ratios'");
    const auto& shape = raw->shape;
    const auto within = [](int64_t size, int64_t most) { return size >= 1 && size <= most; };
    if (shape.size() != 4 || !within(shape[0], kMaxRatios) || !within(shape[1], kMaxSamples) ||
        !within(shape[2], kMaxHeads) || !within(shape[3], kMaxHeads / shape[2])) {
      return Fail("'raw_ratio' is not [ratios, samples, layers, heads]");
    }
    if (base->shape != std::vector{shape[0]}) return Fail("'base_ratios' has another length");
    profile_.num_samples = static_cast<int>(shape[1]);
    profile_.num_layers = static_cast<int>(shape[2]);
    profile_.num_kv_heads = static_cast<int>(shape[3]);
    raw_ = raw->Values();
    nominal_ = base->Values();
    const auto is_share = [](double v) { return v >= 0 && v <= 1; };
    if (!std::ranges::all_of(raw_, is_share)) return Fail("'raw_ratio' has values outside 0 to 1");
    if (!std::ranges::all_of(nominal_, [](double v) { return v > 0 && v < 1; })) {
      return Fail("'base_ratios' has values outside (0, 1)");
    }
    return CheckLayers();
  }

  Status CheckLayers() const {
    const NpyArray* ids = file_.Find("static_layer_ids");
    if (ids == nullptr) return {};
    std::vector<double> expected(static_cast<size_t>(profile_.num_layers));
    std::iota(expected.begin(), expected.end(), 0.0);
    if (ids->Values() == expected) return {};
    return Fail("layers are left out of it, as those with sliding windows; all must be there");
  }

  size_t heads() const {
    return static_cast<size_t>(profile_.num_layers) * static_cast<size_t>(profile_.num_kv_heads);
  }
  size_t samples() const { return static_cast<size_t>(profile_.num_samples); }

  Point Measure(size_t r) const {
    Point point{0, std::vector<float>(heads()), std::vector<float>(heads())};
    const double* first = &raw_[r * samples() * heads()];
    const auto count = static_cast<double>(samples());
    for (size_t h = 0; h < heads(); ++h) {
      double sum = 0, squares = 0;
      for (size_t s = 0; s < samples(); ++s) sum += first[s * heads() + h];
      for (size_t s = 0; s < samples(); ++s) {
        squares += std::pow(first[s * heads() + h] - sum / count, 2);
      }
      point.shares[h] = static_cast<float>(sum / count);
      point.spread[h] = static_cast<float>(std::sqrt(squares / count));
      point.ratio += sum / count / static_cast<double>(heads());
    }
    return point;
  }

  // The scale by bisection: the mean of min(1, scale * share) grows with it.
  Point Enlarge(const Point& from, double ratio) const {
    const auto mean = [&](double scale) {
      double sum = 0;
      for (const float share : from.shares) sum += std::min(1.0, scale * share);
      return sum / static_cast<double>(heads());
    };
    double low = 1, high = 1;
    while (mean(high) < ratio && high < 1e9) high *= 2;
    for (int i = 0; i < 50; ++i) {
      const double middle = (low + high) / 2;
      (mean(middle) < ratio ? low : high) = middle;
    }
    Point point{ratio, from.shares, from.spread};
    for (float& share : point.shares) {
      share = static_cast<float>(std::min(1.0, high * static_cast<double>(share)));
    }
    for (float& spread : point.spread) spread = static_cast<float>(high * spread);
    return point;
  }

  Status Fill(const std::vector<Point>& points) {
    ScorerProfile& scorer = profile_.scorers[scorer_];
    HeadDemand& demand = scorer.demand;
    demand.num_layers = profile_.num_layers;
    demand.num_kv_heads = profile_.num_kv_heads;
    double before = 0;
    for (const Point& point : points) {
      if (point.ratio < before + kMinRatio || point.ratio > 1 - kMinRatio) {
        return Fail("its ratios are all but 0, all but 1, or the same");
      }
      before = point.ratio;
      demand.ratios.push_back(static_cast<float>(point.ratio));
      demand.shares.insert(demand.shares.end(), point.shares.begin(), point.shares.end());
      scorer.spread.insert(scorer.spread.end(), point.spread.begin(), point.spread.end());
    }
    const Point mean = Measure(0);
    for (size_t s = 0; s < samples(); ++s) {
      const double* sample = &raw_[s * heads()];
      const std::vector<float> shares(sample, sample + heads());
      scorer.stability.push_back(static_cast<float>(Spearman(shares, mean.shares)));
    }
    return {};
  }

  const NpzFile& file_;
  const std::string& name_;
  Profile profile_;
  Scorer scorer_ = Scorer::kKeyDiff;
  std::vector<double> raw_, nominal_;  // [R, S, L, H], [R]
};

}  // namespace

Result<Profile> ImportProfile(const NpzFile& file, const std::string& name) {
  return Importer(file, name).Run();
}

}  // namespace tangram
