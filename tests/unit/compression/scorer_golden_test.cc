// What each scorer keeps, beside its own source in float32 at the same lengths
// (tools/make_scorer_golden.py): kvpress on tiny models, the study's prototype on the default one.

#include <gtest/gtest.h>

#include <deque>
#include <functional>
#include <optional>

#include "compression/fastkvzip.h"
#include "compression/reconstruction_pass.h"
#include "kvcache/compressor.h"
#include "kvcache/step_builder.h"
#include "model/safetensors.h"
#include "ops/kv_element.h"

namespace tangram {
namespace {

constexpr double kLeastOverlap = 0.99;
constexpr int kPageSize = 16;

// Lengths of a head by boundary: 1, 2, ...
using Kept = std::function<int(int layer, int head, int boundary)>;

// A gate for the model; its memory lives as long as the test.
using GateOf = GateWeights (*)(const ModelConfig&, ops::Backend&);

struct Case {
  CompressionConfig compression{.chunk = 256};  // as the golden data was made
  Kept kept;
  int num_boundaries = 1;
  std::vector<TokenId> repeat_prompt = {};
  bool reference = false;  // on the reference backend, whose scorers are its own
};

// Compresses as serving does, and notes what stays. A row's tokens are found by their keys: all are
// different.
class WatchedCompressor final : public LayerHook {
 public:
  WatchedCompressor(Compressor& compressor, ops::Backend& backend, int layers, int heads, int chunk)
      : compressor_(compressor),
        backend_(backend),
        chunk_(chunk),
        heads_(static_cast<size_t>(heads)),
        positions_(static_cast<size_t>(layers * heads)) {}
  void BeforeStep(const ops::Step& step) override {
    if (step.input->boundaries.empty()) return;
    const int boundary = step.input->boundaries.front().boundary;
    const ops::RetentionView& retention = step.kv.retention;
    const auto before =
        AllKeys(step.kv, [&](int group) { return ops::RowLength(retention, 0, group, boundary); });
    compressor_.BeforeStep(step);
    const auto after = AllKeys(
        step.kv, [&](int group) { return ops::Retained(retention, 0, group, boundary / chunk_); });
    for (size_t i = 0; i < before.size(); ++i) Keep(i, boundary, before[i], after[i]);
  }
  void OnInput(int layer, const TensorView& input) override { compressor_.OnInput(layer, input); }
  void BeforeAppend(ops::AppendParams& next) override { compressor_.BeforeAppend(next); }
  void AfterAppend(const ops::AppendParams& appended) override {
    compressor_.AfterAppend(appended);
  }
  // Of a head, now.
  const std::vector<int>& positions(int layer, int head) const {
    return positions_[static_cast<size_t>(layer) * heads_ + static_cast<size_t>(head)];
  }

 private:
  // [L * Hkv][length of the head's group][d]
  template <class LengthOf>
  std::vector<std::vector<std::vector<float>>> AllKeys(const ops::KvView& kv,
                                                       const LengthOf& length) const {
    std::vector<std::vector<std::vector<float>>> keys;
    for (size_t i = 0; i < positions_.size(); ++i) {
      const int group = kv.heads.group[i];
      keys.push_back(Keys(kv, group, kv.heads.column[i], length(group)));
    }
    return keys;
  }
  std::vector<std::vector<float>> Keys(const ops::KvView& kv, int group, int column,
                                       int count) const {
    std::vector<std::vector<float>> keys;
    const int d = kv.head_dim, b = kv.page_size;
    for (int t = 0; t < count; ++t) {
      const int64_t page =
          int64_t{kv.page_table[kv.Place(0, group) + t / b]} * kv.group_size + column;
      std::vector<float>& key = keys.emplace_back();
      for (int i = 0; i < d; ++i) {
        const int64_t at = backend_.transposed_keys() ? i * b + t % b : t % b * d + i;
        key.push_back(ops::LoadKv(kv, page * 2 * b * d + at));
      }
    }
    return keys;
  }
  void Keep(size_t head, int boundary, const std::vector<std::vector<float>>& before,
            const std::vector<std::vector<float>>& after) {
    auto& positions = positions_[head];
    for (int i = boundary - chunk_; i < boundary; ++i) positions.push_back(i);
    ASSERT_EQ(positions.size(), before.size());
    std::vector<int> left;
    for (size_t t = 0, i = 0; i < after.size(); ++i, ++t) {
      while (t < before.size() && before[t] != after[i]) ++t;
      ASSERT_LT(t, before.size()) << "a key that was not there, or out of order";
      left.push_back(positions[t]);
    }
    positions = left;
  }

  Compressor& compressor_;
  ops::Backend& backend_;
  int chunk_;
  size_t heads_;
  std::vector<std::vector<int>> positions_;  // [L * Hkv]
};

// A model and one sequence of its, chunk by chunk, compressed at every boundary.
class Run {
 public:
  Run(const std::string& model_path, const Case& setup, GateOf gate)
      : setup_(setup),
        backend_(setup.reference ? ops::CreateReferenceBackend() : ops::CreateCpuBackend(2)) {
    LoadOptions load;
    load.max_num_tokens = setup.compression.chunk + ReconstructionPass::kMaxPrompt;
    auto model = LoadModel(model_path, load, *backend_);
    TANGRAM_CHECK(model.has_value(), "{}", model.error().message);
    model_ = std::move(*model);
    const ModelConfig& c = model_->config();
    const int chunk = setup.compression.chunk, groups = c.num_layers * c.num_key_value_heads;
    std::vector<int32_t> retained;
    for (int b = 1; b <= setup.num_boundaries; ++b) {
      for (int g = 0; g < groups; ++g) {
        retained.push_back(setup.kept(g / c.num_key_value_heads, g % c.num_key_value_heads, b));
      }
    }
    table_.emplace(groups, chunk, 50, std::move(retained));
    pages_per_group_ = (setup.num_boundaries + 1) * chunk / kPageSize;
    const auto heads = HeadGroupMap::Natural(c.num_layers, c.num_key_value_heads, 1);
    const KvLayout layout{DType::kF32, kPageSize, c.head_dim, heads, /*with_scores=*/true};
    const int64_t own = int64_t{groups} * pages_per_group_;
    const int64_t for_pass = ReconstructionPass::NumPages(layout, chunk);
    kv_.emplace(*KvStorage::Create(
        *backend_, layout, {own + for_pass, 1, (setup.num_boundaries + 1) * chunk}, {&*table_, 1}));
    compressor_.emplace(*Compressor::Create(*backend_, heads, c.head_dim, setup.compression,
                                            gate != nullptr ? gate(c, *backend_) : GateWeights{},
                                            {.max_tokens = chunk,
                                             .max_seqs = 1,
                                             .num_q_heads = c.num_attention_heads,
                                             .rope = model_->rope()}));
    compressor_->Attach(*kv_);
    pass_.emplace(*model_, *backend_, *kv_, setup.repeat_prompt, chunk, own);
  }

  // The tokens that each head keeps at each boundary: [boundaries][L * Hkv].
  std::vector<std::vector<std::vector<int>>> KeptTokens(std::span<const TokenId> tokens) {
    const ModelConfig& c = model_->config();
    const int chunk = setup_.compression.chunk;
    WatchedCompressor hook(*compressor_, *backend_, c.num_layers, c.num_key_value_heads, chunk);
    std::vector<std::vector<std::vector<int>>> kept;
    for (int b = 0; b <= setup_.num_boundaries; ++b) {
      // Compression at a boundary needs a token behind it: the last one's is any.
      const auto step = b < setup_.num_boundaries ? tokens.subspan(static_cast<size_t>(b * chunk),
                                                                   static_cast<size_t>(chunk))
                                                  : tokens.first(1);
      const int n = b * chunk;
      if (b > 0 && setup_.compression.needs_reconstruction_pass()) {
        const auto last =
            tokens.subspan(static_cast<size_t>(n - chunk), static_cast<size_t>(chunk));
        pass_->Run({0, 0, n, {last.begin(), last.end()}},
                   [&](int layer) { return compressor_->ChunkScores(layer, 0); });
      }
      builder_.Clear();
      builder_.Add({.tokens = step, .num_computed = n, .boundary = std::max(0, n - chunk)},
                   *table_);
      WritePages(builder_.Finish());
      model_->Forward(backend_->Begin(builder_.input(), kv_->view(), kv_->scores()), &hook);
      if (b == 0) continue;
      auto& heads = kept.emplace_back();
      for (int l = 0; l < c.num_layers; ++l) {
        for (int h = 0; h < c.num_key_value_heads; ++h) heads.push_back(hook.positions(l, h));
      }
    }
    return kept;
  }

 private:
  // All pages, each time: the pass overwrites entries behind those in use.
  void WritePages(ops::StepInput& input) const {
    const ops::KvView& kv = kv_->view();
    for (int i = 0; i < kv.num_groups * pages_per_group_; ++i) {
      const int64_t place = kv.Place(0, i / pages_per_group_) + i % pages_per_group_;
      input.page_writes.push_back({static_cast<int32_t>(place), i});
    }
  }

  Case setup_;
  std::unique_ptr<ops::Backend> backend_;
  std::unique_ptr<Model> model_;
  std::optional<RetentionTable> table_;
  std::optional<KvStorage> kv_;
  std::optional<Compressor> compressor_;
  std::optional<ReconstructionPass> pass_;
  StepBuilder builder_;
  int pages_per_group_ = 0;
};

// What both keep of all heads at all boundaries, over what one keeps.
double Overlap(const std::vector<std::vector<std::vector<int>>>& kept, const TensorView& masks) {
  int64_t both = 0, all = 0;
  const auto bytes = static_cast<int64_t>(masks.shape[3] * sizeof(float));
  const auto* mask = masks.as<uint8_t>();
  for (const auto& heads : kept) {
    for (const auto& positions : heads) {
      int64_t in_mask = 0;
      for (int64_t i = 0; i < bytes * 8; ++i) in_mask += mask[i / 8] >> (i % 8) & 1;
      EXPECT_EQ(in_mask, static_cast<int64_t>(positions.size())) << "lengths differ";
      for (const int p : positions) both += mask[p / 8] >> (p % 8) & 1;
      all += static_cast<int64_t>(positions.size());
      mask += bytes;
    }
  }
  return static_cast<double>(both) / static_cast<double>(all);
}

SafetensorsFile Golden(const std::string& name) {
  auto file = SafetensorsFile::Open(TANGRAM_SOURCE_DIR "/tests/unit/compression/golden/" + name);
  TANGRAM_CHECK(file.has_value(), "{}", file.error().message);
  return std::move(*file);
}

void ExpectOverlap(const std::string& model_path, const std::string& golden,
                   const std::string& scorer, const Case& setup, GateOf gate = nullptr) {
  const SafetensorsFile file = Golden(golden);
  const TensorView tokens = file.Find("tokens");
  const auto* values = tokens.as<float>();
  const std::vector<TokenId> ids(values, values + tokens.shape.count());
  const double overlap = Overlap(Run(model_path, setup, gate).KeptTokens(ids), file.Find(scorer));
  std::printf("%s, %s%s: overlap %.4f\n", golden.c_str(), scorer.c_str(),
              setup.reference ? ", reference backend" : "", overlap);
  EXPECT_GE(overlap, kLeastOverlap);
}

int KvpressKept(int layer, int head, int) { return 64 + 16 * ((2 * layer + head) % 4); }

// kvpress has one boundary, at the prompt's end, and protects what each method of its protects.
using KvpressCase = std::tuple<std::string, Scorer, int, int>;  // its name, ours; window, sinks
class KvpressTest : public testing::TestWithParam<KvpressCase> {};

TEST_P(KvpressTest, KeepsTheSameTokens) {
  const auto& [name, scorer, window, sinks] = GetParam();
  Case setup;
  setup.compression.ratio = 0.5f;
  setup.compression.window = window;
  setup.compression.sinks = sinks;
  setup.compression.scorer = scorer;
  setup.compression.snapkv = {.window = 32, .kernel = 5, .mean = true};
  setup.kept = KvpressKept;
  setup.repeat_prompt = {5, 9, 2, 11, 60, 33};
  for (const bool reference : {false, true}) {
    setup.reference = reference;
    for (const std::string model : {"qwen3_tied_bf16", "llama31_bf16"}) {
      ExpectOverlap(TANGRAM_SOURCE_DIR "/tests/unit/model/golden/" + model,
                    "kvpress_" + model + ".safetensors", name, setup);
    }
  }
}

// Of the gates' file, random ones that kvpress ran too.
GateWeights RandomFastKvzip(const ModelConfig& c, ops::Backend& backend) {
  static FastKvzipWeights weights;
  auto loaded = LoadFastKvzip(
      TANGRAM_SOURCE_DIR "/tests/unit/compression/golden/fastkvzip_qwen3_tied_bf16.safetensors", c,
      backend);
  TANGRAM_CHECK(loaded.has_value(), "{}", loaded.error().message);
  weights = std::move(*loaded);
  return {{}, {}, weights.layers};
}

TEST(KvpressGateTest, KeepsTheSameTokens) {
  Case setup;
  setup.compression.ratio = 0.5f;
  setup.compression.window = 5;  // 0.02 of the context
  setup.compression.scorer = Scorer::kFastKvzip;
  setup.kept = KvpressKept;
  for (const bool reference : {false, true}) {
    setup.reference = reference;
    ExpectOverlap(TANGRAM_SOURCE_DIR "/tests/unit/model/golden/qwen3_tied_bf16",
                  "kvpress_qwen3_tied_bf16.safetensors", "fastkvzip", setup, RandomFastKvzip);
  }
}

INSTANTIATE_TEST_SUITE_P(Methods, KvpressTest,
                         testing::Values(KvpressCase{"snapkv", Scorer::kSnapKv, 32, 0},
                                         KvpressCase{"keydiff", Scorer::kKeyDiff, 0, 0},
                                         KvpressCase{"expected_attention",
                                                     Scorer::kExpectedAttention, 0, 4},
                                         KvpressCase{"tova", Scorer::kTova, 1, 0},
                                         KvpressCase{"streamingllm", Scorer::kStreamingLlm, 0, 4},
                                         KvpressCase{"kvzip", Scorer::kReconstruction, 0, 4}),
                         [](const auto& test) { return std::get<0>(test.param); });

// The prototype's gate is any linear map here: the same integers make it there.
GateWeights StudyGate(const ModelConfig& c, ops::Backend& backend) {
  static std::deque<std::vector<float>> memory;
  memory.clear();
  GateWeights gate;
  const int64_t width = c.hidden_size, heads = c.num_key_value_heads;
  for (int64_t l = 0; l < c.num_layers; ++l) {
    const auto value = [&](int64_t i, int64_t head) {
      const int64_t x = (l * 31 + head * 17 + i * 7919 + l * i * 13) % 2003;
      return static_cast<float>(static_cast<double>(x) / 1001.5 - 1);
    };
    auto& weight = memory.emplace_back();
    for (int64_t h = 0; h < heads; ++h) {
      for (int64_t i = 0; i < width; ++i) weight.push_back(value(i, h));
    }
    auto& bias = memory.emplace_back();
    for (int64_t h = 0; h < heads; ++h) bias.push_back(value(width, h));
    gate.weight.push_back(backend.Upload({weight.data(), DType::kF32, {heads, width}}));
    gate.bias.push_back({bias.data(), DType::kF32, {heads}});
  }
  return gate;
}

struct StudyCase {
  std::string name;
  Scorer scorer;
};
class StudyTest : public testing::TestWithParam<StudyCase> {};

TEST_P(StudyTest, KeepsTheSameTokens) {
  const auto& [name, scorer] = GetParam();
  Case setup;
  setup.compression.ratio = 0.5f;
  setup.compression.scorer = scorer;
  setup.num_boundaries = 4;
  setup.kept = [](int layer, int head, int boundary) {
    return boundary * (48 + 16 * ((5 * layer + 7 * head) % 9));
  };
  setup.repeat_prompt = {198, 198, 42650, 260, 1552};
  ExpectOverlap(TANGRAM_SOURCE_DIR "/models/SmolLM2-135M-Instruct.Q4_1.gguf", "study.safetensors",
                name, setup, scorer == Scorer::kGate ? StudyGate : nullptr);
}

INSTANTIATE_TEST_SUITE_P(Scorers, StudyTest,
                         testing::Values(StudyCase{"gate", Scorer::kGate},
                                         StudyCase{"keydiff", Scorer::kKeyDiff},
                                         StudyCase{"reconstruction", Scorer::kReconstruction},
                                         StudyCase{"snapkv", Scorer::kSnapKv}),
                         [](const auto& test) { return test.param.name; });

}  // namespace
}  // namespace tangram
