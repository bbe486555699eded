#include "engine/calibration.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <map>
#include <numeric>
#include <thread>

#include "engine/fastkvzip.h"
#include "engine/rank_correlation.h"
#include "engine/repeat_pass.h"
#include "engine/ridge.h"
#include "engine/single_sequence.h"
#include "kvcache/compressor.h"

namespace tangram {
namespace {

constexpr float kLabelFloor = 1e-5f;  // the gate learns log(label + this)

// Scores of one text: [L * Hkv][n].
using TextScores = std::vector<std::vector<float>>;

struct Shapes {
  int layers, kv_heads, width;
  size_t heads() const { return static_cast<size_t>(layers * kv_heads); }
};

// Keeps the attention inputs of a step.
class InputRecorder final : public LayerHook {
 public:
  explicit InputRecorder(const Shapes& shapes) : inputs_(static_cast<size_t>(shapes.layers)) {}
  void OnInput(int layer, const TensorView& input) override {
    const auto* values = input.as<float>();
    inputs_[static_cast<size_t>(layer)].assign(values, values + input.shape.count());
  }
  void BeforeAppend(int, const ops::AppendParams&, std::span<const ops::BoundarySpan>) override {}
  void AfterAppend(int, const ops::AppendParams&) override {}
  const std::vector<std::vector<float>>& inputs() const { return inputs_; }

 private:
  std::vector<std::vector<float>> inputs_;  // L x [T, D]
};

// Scores the tokens of each chunk as serving would by some dynamic scorers, but keeps them all.
class DynamicScoreHook final : public LayerHook {
 public:
  DynamicScoreHook(const std::vector<Scorer>& scorers, const CompressionConfig& config,
                   int num_q_heads, const KvStorage& kv, ops::Backend& backend)
      : config_(config), kv_(kv), backend_(backend) {
    for (const Scorer scorer : scorers) {
      CompressionConfig c = config;
      c.scorer = scorer;
      One& one = scorers_.emplace_back(
          One{scorer, *ScoreMethodOf(scorer), QueryScoringOf(c, num_q_heads), {}, {}});
      const int heads = kv.layout().heads.num_kv_heads();
      one.state.resize(
          static_cast<size_t>(heads * ops::QueryStateFloats(one.method, one.queries, heads,
                                                            config.window, kv.layout().head_dim)));
      one.scores.resize(static_cast<size_t>(kv.num_pages() * kv.layout().page_size));
    }
  }
  void OnInput(int, const TensorView&) override {}
  void BeforeAppend(int, const ops::AppendParams&, std::span<const ops::BoundarySpan>) override {}
  void AfterAppend(int, const ops::AppendParams& appended) override {
    for (One& one : scorers_) {
      if (ops::LooksAtQueries(one.method)) Observe(one, appended);
      Score(one, appended);
    }
  }

  // Groups of one head and pages in order: the scores of a head lie side by side.
  template <class Visit>
  void ForScores(size_t heads, size_t length, const Visit& visit) const {
    for (const One& one : scorers_) {
      TextScores scores(heads);
      const size_t stride = one.scores.size() / heads;
      for (size_t h = 0; h < heads; ++h) {
        const auto first = one.scores.begin() + static_cast<ptrdiff_t>(h * stride);
        scores[h].assign(first, first + static_cast<ptrdiff_t>(length));
      }
      visit(one.scorer, scores);
    }
  }

 private:
  struct One {
    Scorer scorer;
    ops::ScoreMethod method;
    ops::QueryScoring queries;
    std::vector<float> state;   // of one layer, the one in work
    std::vector<float> scores;  // [L * Hkv, tokens]
  };

  // A step is a chunk.
  void Observe(One& one, const ops::AppendParams& appended) {
    ops::SequenceSpan span = appended.sequences.front();
    span.since_boundary = 0;
    backend_.ObserveQueries({.method = one.method,
                             .queries = one.queries,
                             .num_kv_heads = appended.num_kv_heads,
                             .window = config_.window,
                             .qkv = appended.qkv,
                             .positions = appended.positions,
                             .rope = appended.rope(),
                             .pool = appended.pool,
                             .pages = appended.pages,
                             .heads = appended.heads,
                             .sequences = {&span, 1},
                             .state = one.state.data()});
  }

  void Score(One& one, const ops::AppendParams& appended) {
    const ops::SequenceSpan& chunk = appended.sequences.front();
    const int begin = chunk.row_history[0], end = begin + chunk.num_tokens;
    const auto rows = static_cast<size_t>(kv_.layout().heads.num_rows());
    const std::vector<int32_t> locked(rows, begin == 0 ? config_.sinks : begin - config_.window);
    const std::vector<int32_t> length(rows, end);
    const ops::BoundarySpan span{0, end, locked.data(), length.data(), length.data()};
    backend_.Score({.method = one.method,
                    .num_kv_heads = appended.num_kv_heads,
                    .window = config_.window,
                    .pool = appended.pool,
                    .pool_scores = one.scores.data(),
                    .pages = appended.pages,
                    .heads = appended.heads,
                    .sequences = {&span, 1},
                    .queries = one.queries,
                    .state = one.state.data(),
                    .rope = appended.rope()});
  }

  const CompressionConfig& config_;
  const KvStorage& kv_;
  ops::Backend& backend_;
  std::vector<One> scorers_;
};

// Scores the tokens of a step by a gate.
class GateHook final : public LayerHook {
 public:
  using Visit = std::function<void(int layer, const TensorView& scores)>;
  GateHook(GateScorer& gate, Visit visit) : gate_(gate), visit_(std::move(visit)) {}
  void OnInput(int layer, const TensorView& input) override {
    visit_(layer, gate_.Scores(layer, input));
  }
  void BeforeAppend(int, const ops::AppendParams&, std::span<const ops::BoundarySpan>) override {}
  void AfterAppend(int, const ops::AppendParams&) override {}

 private:
  GateScorer& gate_;
  Visit visit_;
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
    for (const auto& text : texts_) TANGRAM_RETURN_IF_ERROR(MeasureDemand(text));
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
    KvLayout layout{DType::kF16, options_.page_size, c.head_dim,
                    HeadGroupMap::Natural(c.num_layers, c.num_key_value_heads, 1)};
    auto table = RetentionTable::Full(layout.heads.num_rows(), options_.compression.chunk);
    return SingleSequence::Create(model_, backend_, std::move(layout), std::move(table),
                                  options_.compression, static_cast<int>(max_tokens));
  }

  template <class Body>
  void ForChunks(const std::vector<TokenId>& text, const Body& body) {
    const auto chunk = static_cast<size_t>(options_.compression.chunk);
    for (size_t i = 0; i < text.size(); i += chunk) {
      body(std::span(text).subspan(i, std::min(chunk, text.size() - i)));
      Advance();
    }
  }

  Status TakeLabels(const std::vector<TokenId>& text) {
    TANGRAM_ASSIGN_OR_RETURN(
        auto sequence, NewSequence(text.size() + repeat_.size() + options_.compression.chunk));
    TextScores scores(shapes_.heads());
    ForChunks(text, [&](std::span<const TokenId> chunk) {
      const int first = sequence->size(), count = static_cast<int>(chunk.size());
      InputRecorder recorder(shapes_);
      sequence->Append(chunk, &recorder, {});
      std::vector<TokenId> repeated(repeat_.begin(), repeat_.end());
      repeated.insert(repeated.end(), chunk.begin(), chunk.end());
      std::vector<std::vector<float>> labels(
          recorder.inputs().size(),
          std::vector<float>(chunk.size() * static_cast<size_t>(shapes_.kv_heads)));
      LabelHook hook(backend_, count,
                     [&](int layer) { return labels[static_cast<size_t>(layer)].data(); });
      sequence->Append(repeated, &hook, {});
      sequence->Truncate(first + count);
      Learn(recorder.inputs(), labels, count);
      for (size_t l = 0; l < labels.size(); ++l) AddScores(labels[l], l, scores);
    });
    KeepSample(Scorer::kReconstruction, scores);
    return {};
  }

  // values [count, Hkv] of a layer.
  void AddScores(const std::vector<float>& values, size_t layer, TextScores& scores) const {
    const auto heads = static_cast<size_t>(shapes_.kv_heads);
    for (size_t i = 0; i < values.size(); ++i) {
      scores[layer * heads + i % heads].push_back(values[i]);
    }
  }

  void Learn(const std::vector<std::vector<float>>& inputs,
             const std::vector<std::vector<float>>& labels, int count) {
    const auto learn = [&](size_t first) {
      for (size_t l = first; l < inputs.size(); l += 2) {
        std::vector<float> targets = labels[l];
        for (float& y : targets) y = std::log(y + kLabelFloor);
        ridges_[l].Add(inputs[l].data(), targets.data(), count);
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

  Status MeasureDemand(const std::vector<TokenId>& text) {
    if (Wants(Scorer::kGate)) {
      TANGRAM_ASSIGN_OR_RETURN(auto sequence, NewSequence(text.size()));
      TextScores scores(shapes_.heads());
      ForChunks(text, [&](std::span<const TokenId> chunk) {
        InputRecorder recorder(shapes_);
        sequence->Append(chunk, &recorder, {});
        for (size_t l = 0; l < recorder.inputs().size(); ++l) {
          AddScores(GateScores(l, recorder.inputs()[l]), l, scores);
        }
      });
      KeepSample(Scorer::kGate, scores);
    }
    if (Wants(Scorer::kFastKvzip)) TANGRAM_RETURN_IF_ERROR(MeasureFastKvzip(text));
    const std::vector<Scorer> dynamic = DynamicScorers();
    if (dynamic.empty()) return {};
    TANGRAM_ASSIGN_OR_RETURN(auto sequence, NewSequence(text.size()));
    DynamicScoreHook hook(dynamic, options_.compression, model_.config().num_attention_heads,
                          sequence->kv(), backend_);
    // Statistics are those of whole chunks: what is behind the last is not looked at.
    const size_t chunk_size = static_cast<size_t>(options_.compression.chunk);
    const size_t length = text.size() / chunk_size * chunk_size;
    ForChunks(text, [&](std::span<const TokenId> chunk) {
      if (chunk.size() == chunk_size) sequence->Append(chunk, &hook, {});
    });
    hook.ForScores(shapes_.heads(), length,
                   [&](Scorer scorer, const TextScores& scores) { KeepSample(scorer, scores); });
    return {};
  }

  Status MeasureFastKvzip(const std::vector<TokenId>& text) {
    TANGRAM_ASSIGN_OR_RETURN(auto sequence, NewSequence(text.size()));
    TANGRAM_ASSIGN_OR_RETURN(
        GateScorer gate, GateScorer::Create(backend_, {{}, {}, fastkvzip_.layers}, shapes_.kv_heads,
                                            options_.compression.chunk));
    TextScores scores(shapes_.heads());
    GateHook hook(gate, [&](int layer, const TensorView& of_tokens) {
      const auto* values = of_tokens.as<float>();
      AddScores({values, values + of_tokens.shape.count()}, static_cast<size_t>(layer), scores);
    });
    ForChunks(text, [&](std::span<const TokenId> chunk) { sequence->Append(chunk, &hook, {}); });
    KeepSample(Scorer::kFastKvzip, scores);
    return {};
  }

  std::vector<Scorer> DynamicScorers() const {
    std::vector<Scorer> dynamic;
    std::ranges::copy_if(options_.scorers, std::back_inserter(dynamic),
                         [](Scorer scorer) { return ScoreMethodOf(scorer).has_value(); });
    return dynamic;
  }

  std::vector<float> GateScores(size_t layer, const std::vector<float>& inputs) const {
    const auto width = static_cast<size_t>(shapes_.width),
               heads = static_cast<size_t>(shapes_.kv_heads);
    std::vector<float> scores;
    for (size_t t = 0; t < inputs.size(); t += width) {
      for (size_t h = 0; h < heads; ++h) {
        const float* weight = &profile_.gate_weight[(layer * heads + h) * width];
        scores.push_back(std::inner_product(weight, weight + width, &inputs[t],
                                            profile_.gate_bias[layer * heads + h]));
      }
    }
    return scores;
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
    // Over the texts; the labels' counts thrice.
    const size_t passes = 3 + (Wants(Scorer::kGate) ? 1 : 0) + (DynamicScorers().empty() ? 0 : 1) +
                          (Wants(Scorer::kFastKvzip) ? 1 : 0);
    const double chunks =
        std::ceil(static_cast<double>(texts_.front().size()) / options_.compression.chunk);
    const bool labels = profile_.gate_weight.empty();
    done_ += labels ? 3 : 1;
    options_.progress(
        std::min(1.0, done_ / (chunks * static_cast<double>(texts_.size() * passes))));
  }

  Model& model_;
  ops::Backend& backend_;
  std::span<const std::vector<TokenId>> texts_;
  std::span<const TokenId> repeat_;
  const CalibrationOptions& options_;
  Shapes shapes_;
  std::vector<RidgeRegression> ridges_;  // by layer
  FastKvzipWeights fastkvzip_;
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
  if (repeat_prompt.empty() || repeat_prompt.size() > RepeatPass::kMaxPrompt) {
    return MakeError(ErrorKind::kInvalidArgument,
                     fmt::format("the prompt that asks for a repetition has {} tokens, not 1 to {}",
                                 repeat_prompt.size(), RepeatPass::kMaxPrompt),
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
