#include "calibration/calibration.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <map>
#include <numeric>
#include <thread>

#include "calibration/hooks.h"
#include "calibration/ridge.h"
#include "calibration/single_sequence.h"
#include "compression/fastkvzip.h"
#include "compression/rank_correlation.h"
#include "compression/reconstruction_pass.h"
#include "kvcache/gate_scorer.h"

namespace tangram {
namespace {

constexpr float kLabelFloor = 1e-5f;  // the gate learns log(label + this)
// A key that readers further on pay 1 / kReadingWeight times an even share is worth as much as one
// that the repetition looks at alone (docs/adr/0008-what-the-gate-learns.md).
constexpr float kReadingWeight = 0.025f;
// The last tokens of a text have too few readers to learn from.
constexpr float kLearntShare = 7.0f / 8;

struct Shapes {
  int layers, kv_heads, width;
  size_t heads() const { return static_cast<size_t>(layers * kv_heads); }
};

// The share of each head's tokens that is among the best `ratio` of all heads'; sinks and window
// always are.
std::vector<float> DemandAt(const TextScores& scores, float ratio,
                            const CompressionConfig& config) {
  const size_t length = scores.front().size();
  const auto is_protected = [&](size_t t) {
    return t < static_cast<size_t>(config.sinks) ||
           t + static_cast<size_t>(config.window) >= length;
  };
  std::vector<float> all;
  for (const auto& head : scores) {
    for (size_t t = 0; t < length; ++t) all.push_back(is_protected(t) ? INFINITY : head[t]);
  }
  const auto kept = static_cast<ptrdiff_t>(ratio * static_cast<double>(all.size()));
  std::ranges::nth_element(all, all.begin() + kept - 1, std::greater<>());
  const float threshold = all[static_cast<size_t>(kept - 1)];
  std::vector<float> demand;
  for (const auto& head : scores) {
    size_t count = 0;
    for (size_t t = 0; t < length; ++t) count += is_protected(t) || head[t] >= threshold ? 1 : 0;
    demand.push_back(static_cast<float>(count) / static_cast<float>(length));
  }
  return demand;
}

class Calibrator {
 public:
  Calibrator(Model& model, ops::Backend& backend, std::span<const std::vector<TokenId>> texts,
             std::span<const TokenId> repeat_prompt, const CalibrationOptions& options)
      : model_(model),
        backend_(backend),
        texts_(texts),
        repeat_(repeat_prompt),
        options_(options),
        shapes_{model.config().num_layers, model.config().num_key_value_heads,
                model.config().hidden_size} {
    for (int l = 0; l < shapes_.layers; ++l) ridges_.emplace_back(shapes_.width, shapes_.kv_heads);
  }

  Result<Profile> Run() {
    if (!options_.compression_gate.empty()) {
      TANGRAM_ASSIGN_OR_RETURN(fastkvzip_,
                               LoadFastKvzip(options_.compression_gate, model_.config(), backend_));
    }
    for (const auto& text : texts_) TANGRAM_RETURN_IF_ERROR(TakeLabels(text));
    FitGate();
    for (const auto& [scorer, samples] : samples_) profile_.scorers[scorer] = Summarise(samples);
    profile_.model_fingerprint = model_.fingerprint();
    profile_.repeat_prompt.assign(repeat_.begin(), repeat_.end());
    profile_.num_layers = shapes_.layers;
    profile_.num_kv_heads = shapes_.kv_heads;
    profile_.hidden_size = shapes_.width;
    profile_.num_samples = static_cast<int>(texts_.size());
    profile_.sample_tokens = static_cast<int>(texts_.front().size());
    return std::move(profile_);
  }

 private:
  Result<std::unique_ptr<SingleSequence>> NewSequence(size_t max_tokens) {
    const ModelConfig& c = model_.config();
    KvLayout layout{backend_.limits().kv_dtypes.front(),
                    options_.page_size,
                    c.head_dim,
                    HeadGroupMap::Natural(c.num_layers, c.num_key_value_heads, 1),
                    false,
                    c.num_attention_heads};
    auto table = RetentionTable::Full(layout.heads.num_groups(), options_.compression.chunk);
    return SingleSequence::Create(model_, backend_, std::move(layout), std::move(table),
                                  static_cast<int>(max_tokens));
  }

  template <class Body>
  void ForChunks(const std::vector<TokenId>& text, const Body& body) {
    const auto chunk = static_cast<size_t>(options_.compression.chunk);
    for (size_t i = 0; i < text.size(); i += chunk) {
      body(std::span(text).subspan(i, std::min(chunk, text.size() - i)));
      Advance();
    }
  }

  // One forward over the text, chunk by chunk, that everything is taken from; and one
  // of each chunk again, for its labels.
  Status TakeLabels(const std::vector<TokenId>& text) {
    const auto chunk_size = static_cast<size_t>(options_.compression.chunk);
    TANGRAM_ASSIGN_OR_RETURN(auto sequence, NewSequence(text.size() + repeat_.size() + chunk_size));
    InputRecorder recorder(backend_, shapes_.layers);
    TANGRAM_ASSIGN_OR_RETURN(
        ReadingHook reading,
        ReadingHook::Create(backend_, shapes_.layers, shapes_.kv_heads,
                            static_cast<int>(text.size()), options_.compression.window));
    TANGRAM_ASSIGN_OR_RETURN(
        DynamicScoreHook dynamic,
        DynamicScoreHook::Create(backend_, DynamicScorers(), options_.compression, model_,
                                 sequence->kv()));
    label_memory_ = backend_.Allocate(shapes_.heads() * chunk_size * sizeof(float));
    if (label_memory_.data() == nullptr) {
      return MakeError(ErrorKind::kOutOfMemory, "not enough memory for the labels of a chunk");
    }
    TextScores labels(shapes_.heads()), fastkvzip(shapes_.heads());
    TANGRAM_ASSIGN_OR_RETURN(GateScorer published,
                             GateScorer::Create(backend_, {{}, {}, fastkvzip_.layers},
                                                shapes_.kv_heads, options_.compression.chunk));
    GateHook gate(published, [&](int layer, const TensorView& scores) {
      std::vector<float> values(static_cast<size_t>(scores.shape.count()));
      backend_.Read(values.data(), scores.data, scores.bytes());
      AddScores(values, static_cast<size_t>(layer), fastkvzip);
    });
    ForChunks(text, [&](std::span<const TokenId> chunk) {
      HookChain hooks{&recorder, &reading};
      if (Wants(Scorer::kFastKvzip)) hooks.Add(&gate);
      // Statistics are those of whole chunks: what is behind the last is not looked at.
      if (chunk.size() == chunk_size) hooks.Add(&dynamic);
      sequence->Append(chunk, &hooks, {});
      const auto of_chunk = Labels(*sequence, chunk);
      for (size_t l = 0; l < of_chunk.size(); ++l) AddScores(of_chunk[l], l, labels);
    });
    reading.Finish();
    KeepSample(Scorer::kReconstruction, labels);
    AddReading(reading, labels);
    Learn(recorder.inputs(), labels);
    // What the gate is to predict is what heads need: its own scores, smoother than the labels,
    // would share the cache out worse (docs/accuracy.md).
    KeepSample(Scorer::kGate, labels);
    KeepSample(Scorer::kFastKvzip, fastkvzip);
    dynamic.ForScores(shapes_.heads(), text.size() / chunk_size * chunk_size,
                      [&](Scorer scorer, const TextScores& scores) { KeepSample(scorer, scores); });
    return {};
  }

  // The last tokens of the sequence are asked for again. L x [count, Hkv]
  std::vector<std::vector<float>> Labels(SingleSequence& sequence, std::span<const TokenId> chunk) {
    const int size = sequence.size();
    std::vector<TokenId> repeated(repeat_.begin(), repeat_.end());
    repeated.insert(repeated.end(), chunk.begin(), chunk.end());
    const size_t floats = chunk.size() * static_cast<size_t>(shapes_.kv_heads);
    auto* memory = static_cast<float*>(label_memory_.data());
    LabelHook hook(backend_, static_cast<int>(chunk.size()),
                   [&](int layer) { return memory + static_cast<size_t>(layer) * floats; });
    sequence.Append(repeated, &hook, {});
    std::vector<std::vector<float>> labels(static_cast<size_t>(shapes_.layers),
                                           std::vector<float>(floats));
    for (size_t l = 0; l < labels.size(); ++l) {
      backend_.Read(labels[l].data(), memory + l * floats, floats * sizeof(float));
    }
    sequence.Truncate(size);
    return labels;
  }

  // values [count, Hkv] of a layer.
  void AddScores(const std::vector<float>& values, size_t layer, TextScores& scores) const {
    const auto heads = static_cast<size_t>(shapes_.kv_heads);
    for (size_t i = 0; i < values.size(); ++i) {
      scores[layer * heads + i % heads].push_back(values[i]);
    }
  }

  // What the gate learns: the larger of what a key gets when its chunk is repeated, and of what the
  // tokens behind it pay it as they are read.
  void AddReading(const ReadingHook& reading, TextScores& labels) const {
    for (size_t h = 0; h < labels.size(); ++h) {
      const int layer = static_cast<int>(h) / shapes_.kv_heads,
                head = static_cast<int>(h) % shapes_.kv_heads;
      // An even share is 1 / length.
      const float weight = kReadingWeight * static_cast<float>(labels[h].size());
      for (size_t t = 0; t < labels[h].size(); ++t) {
        labels[h][t] =
            std::max(labels[h][t], weight * reading.Mean(layer, static_cast<int>(t), head));
      }
    }
  }

  // inputs: L x [n, D]
  void Learn(const std::vector<std::vector<float>>& inputs, const TextScores& labels) {
    const auto heads = static_cast<size_t>(shapes_.kv_heads);
    const auto count =
        static_cast<size_t>(kLearntShare * static_cast<float>(labels.front().size()));
    const auto learn = [&](size_t first) {
      std::vector<float> targets(count * heads);
      for (size_t l = first; l < inputs.size(); l += 2) {
        for (size_t i = 0; i < targets.size(); ++i) {
          targets[i] = std::log(labels[l * heads + i % heads][i / heads] + kLabelFloor);
        }
        ridges_[l].Add(inputs[l].data(), targets.data(), static_cast<int>(count));
      }
    };
    std::thread odd([&] { learn(1); });
    learn(0);
    odd.join();
  }

  void FitGate() {
    const auto width = static_cast<size_t>(shapes_.width),
               heads = static_cast<size_t>(shapes_.kv_heads);
    profile_.gate_weight.resize(shapes_.heads() * width);
    profile_.gate_bias.resize(shapes_.heads());
    for (size_t l = 0; l < ridges_.size(); ++l) {
      ridges_[l].Solve(options_.ridge, &profile_.gate_weight[l * heads * width],
                       &profile_.gate_bias[l * heads]);
    }
  }

  std::vector<Scorer> DynamicScorers() const {
    std::vector<Scorer> dynamic;
    std::ranges::copy_if(options_.scorers, std::back_inserter(dynamic),
                         [](Scorer scorer) { return ScoreMethodOf(scorer).has_value(); });
    return dynamic;
  }

  void KeepSample(Scorer scorer, const TextScores& scores) {
    if (!Wants(scorer)) return;
    auto& sample = samples_[scorer].emplace_back();
    for (float ratio : options_.ratios) {
      sample.push_back(DemandAt(scores, ratio, options_.compression));
    }
  }

  // Means, deviations and rank correlations over samples: [samples][ratios][L * Hkv].
  ScorerProfile Summarise(const std::vector<std::vector<std::vector<float>>>& samples) const {
    ScorerProfile out;
    out.demand.num_layers = shapes_.layers;
    out.demand.num_kv_heads = shapes_.kv_heads;
    out.demand.ratios = options_.ratios;
    const auto count = static_cast<double>(samples.size());
    for (size_t r = 0; r < options_.ratios.size(); ++r) {
      for (size_t h = 0; h < shapes_.heads(); ++h) {
        double sum = 0, squares = 0;
        for (const auto& s : samples) sum += s[r][h];
        for (const auto& s : samples) squares += std::pow(s[r][h] - sum / count, 2);
        out.demand.shares.push_back(static_cast<float>(sum / count));
        out.spread.push_back(static_cast<float>(std::sqrt(squares / count)));
      }
    }
    const size_t middle = options_.ratios.size() / 2;
    const auto first = out.demand.shares.begin() + static_cast<ptrdiff_t>(middle * shapes_.heads());
    const std::vector<float> mean(first, first + static_cast<ptrdiff_t>(shapes_.heads()));
    for (const auto& s : samples) {
      out.stability.push_back(static_cast<float>(Spearman(s[middle], mean)));
    }
    return out;
  }

  bool Wants(Scorer scorer) const {
    if (scorer == Scorer::kFastKvzip) return !fastkvzip_.layers.empty();
    return std::ranges::find(options_.scorers, scorer) != options_.scorers.end();
  }

  void Advance() {
    const double chunks =
        std::ceil(static_cast<double>(texts_.front().size()) / options_.compression.chunk);
    options_.progress(std::min(1.0, ++done_ / (chunks * static_cast<double>(texts_.size()))));
  }

  Model& model_;
  ops::Backend& backend_;
  std::span<const std::vector<TokenId>> texts_;
  std::span<const TokenId> repeat_;
  const CalibrationOptions& options_;
  Shapes shapes_;
  std::vector<RidgeRegression> ridges_;  // by layer
  FastKvzipWeights fastkvzip_;
  Buffer label_memory_;  // [L][count][Hkv]
  Profile profile_;
  std::map<Scorer, std::vector<std::vector<std::vector<float>>>> samples_;
  double done_ = 0;
};

}  // namespace

Result<Profile> Calibrate(Model& model, ops::Backend& backend,
                          std::span<const std::vector<TokenId>> texts,
                          std::span<const TokenId> repeat_prompt,
                          const CalibrationOptions& options) {
  if (texts.empty()) {
    return MakeError(ErrorKind::kInvalidArgument, "calibration needs at least one text", "texts");
  }
  if (repeat_prompt.empty() || repeat_prompt.size() > ReconstructionPass::kMaxPrompt) {
    return MakeError(ErrorKind::kInvalidArgument,
                     fmt::format("the prompt that asks for a repetition has {} tokens, not 1 to {}",
                                 repeat_prompt.size(), ReconstructionPass::kMaxPrompt),
                     "repeat_prompt");
  }
  for (const auto& text : texts) {
    const auto least = static_cast<size_t>(options.compression.chunk);
    if (text.size() < least || text.size() != texts.front().size()) {
      return MakeError(
          ErrorKind::kInvalidArgument,
          fmt::format("calibration texts must be of one length, at least a chunk of {} "
                      "tokens",
                      least),
          "texts");
    }
  }
  return Calibrator(model, backend, texts, repeat_prompt, options).Run();
}

}  // namespace tangram
