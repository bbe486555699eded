#include <gtest/gtest.h>

#include <limits>
#include <string>

#include "ops/cuda/sampling/philox.h"
#include "ops/cuda/sampling_case.h"

// Draws token by token against a reference on the host that sees the same noise: all that decides
// together, penalties, temperature, masks, min-p, top-k and top-p.

namespace tangram::ops::cuda {
namespace {

constexpr int kVocabulary = 2000;

uint32_t NoiseBits(const SamplingRow& row, int token) {
  const uint4 bits =
      Philox({uint32_t(token / 4), row.step, 0, 0}, {uint32_t(row.seed), uint32_t(row.seed >> 32)});
  const uint32_t words[4] = {bits.x, bits.y, bits.z, bits.w};
  return words[token % 4];
}

// Logits as penalised, at the row's temperature; -inf where not allowed.
std::vector<double> Scores(const std::vector<__nv_bfloat16>& logits, const SamplingRow& row,
                           const std::vector<uint32_t>& counts,
                           const std::vector<uint32_t>& allowed) {
  std::vector<double> scores;
  for (int t = 0; t < int(logits.size()); ++t) {
    double score = __bfloat162float(logits[t]);
    const uint32_t seen = counts.empty() ? 0 : counts[t], times = seen & ~kInPrompt;
    if (seen != 0) {
      score = score > 0 ? score / row.repetition_penalty : score * row.repetition_penalty;
      score -= double(row.frequency_penalty) * times;
    }
    if (times > 0) score -= row.presence_penalty;
    if (!allowed.empty() && (allowed[t / 32] >> t % 32 & 1) == 0) {
      score = -std::numeric_limits<double>::infinity();
    }
    scores.push_back(row.temperature > 0 ? score / row.temperature : score);
  }
  return scores;
}

struct Setting {
  std::string name;
  SamplingRow row;
  bool masked;
};

std::vector<Setting> Settings() {
  std::vector<Setting> all;
  const auto add = [&](const char* name, float temperature, bool penalties, bool masked) {
    SamplingRow row = Plain(temperature);
    if (penalties) {
      row.repetition_penalty = 1.3f, row.presence_penalty = 0.4f, row.frequency_penalty = 0.7f;
    }
    all.push_back({name, row, masked});
    return &all.back().row;
  };
  add("temperature", 1, false, false);
  add("penalties", 1, true, false);
  add("penalties, likeliest, mask", 0, true, true);
  add("penalties, top-p", 0.7f, true, false)->top_p = 0.9f;
  add("penalties, min-p", 1.3f, true, false)->min_p = 0.05f;
  add("penalties, top-k", 1.1f, true, false)->top_k = 17;
  add("penalties, mask", 1, true, true);
  add("mask, top-p", 0.8f, false, true)->top_p = 0.5f;
  SamplingRow* row = add("all", 1.2f, true, true);
  row->top_k = 30, row->top_p = 0.8f, row->min_p = 0.01f;
  row = add("a bonus", 0.9f, true, false);
  row->repetition_penalty = 0.8f, row->presence_penalty = -0.5f, row->top_p = 0.95f;
  return all;
}

// Some tokens in the prompt, some in the output up to three times, some in both.
std::vector<uint32_t> RandomCounts() {
  std::mt19937 random(11);
  std::vector<uint32_t> counts(kVocabulary);
  for (uint32_t& count : counts) {
    if (random() % 3 == 0) count |= kInPrompt;
    if (random() % 3 == 0) count += 1 + random() % 3;
  }
  return counts;
}

std::vector<uint32_t> RandomMask() {
  std::mt19937 random(12);
  std::vector<uint32_t> allowed((kVocabulary + 31) / 32);
  for (uint32_t& word : allowed) word = random() | random();  // three quarters
  return allowed;
}

TEST(Sampling, DrawsTheReferencesTokens) {
  const auto logits = RandomBf16(kVocabulary, 13, 3.f);
  const auto counts = RandomCounts();
  for (const Setting& setting : Settings()) {
    SCOPED_TRACE(setting.name);
    const auto allowed = setting.masked ? RandomMask() : std::vector<uint32_t>{};
    // Rows with the same counts, each in a slot of its own.
    std::vector<SamplingRow> rows;
    std::vector<uint32_t> all_counts;
    for (const uint64_t seed : {uint64_t{0}, uint64_t{1}, uint64_t{1} << 32,
                                uint64_t{0xdeadbeefcafef00d}, ~uint64_t{0}}) {
      for (SamplingRow row : Steps(setting.row, 8)) {
        row.seed = seed, row.slot = int(rows.size());
        rows.push_back(row);
        all_counts.insert(all_counts.end(), counts.begin(), counts.end());
      }
    }
    const Drawn drawn = Draw(logits, rows, all_counts, allowed);

    const SamplingRow& how = setting.row;
    const auto score = LogSoftmax(Scores(logits, how, counts, allowed));
    // Where the mass falls within rounding of the target, either is right.
    const auto fewest = Kept(score, how.top_k, how.top_p - 1e-4, how.min_p * (1 + 1e-4));
    const auto most =
        Kept(score, how.top_k, how.top_p < 1 ? how.top_p + 1e-4 : 1, how.min_p * (1 - 1e-4));
    for (const SamplingRow& row : rows) {
      const auto value = [&](int t) {
        if (how.temperature == 0) return score[t];
        return score[t] - std::log(-std::log(double(UnitInterval(NoiseBits(row, t)))));
      };
      double best = -1e300;
      for (int t : fewest) best = std::max(best, value(t));
      const int token = drawn.tokens[row.slot];
      ASSERT_TRUE(token >= 0 && token < kVocabulary) << token;
      EXPECT_TRUE(most.count(token)) << "seed " << row.seed << ", step " << row.step;
      EXPECT_GE(value(token), best - 1e-4) << "seed " << row.seed << ", step " << row.step;
      ++all_counts[row.slot * kVocabulary + token];
    }
    EXPECT_EQ(drawn.counts, all_counts);
  }
}

// A number that rounds to 1 would make its noise infinite, and its token be drawn whatever the
// logits: with a vocabulary of 150,000 in one draw of a hundred.
TEST(Sampling, NoiseIsFinite) {
  SamplingRow row = Plain();
  row.step = 1;
  const int token = 141702;
  ASSERT_GE(NoiseBits(row, token), 0xffffff00u);
  std::vector<__nv_bfloat16> logits(151936, __float2bfloat16(0.f));
  logits[token] = __float2bfloat16(-20.f);
  EXPECT_NE(Draw(logits, {row}).tokens[0], token);
}

TEST(Sampling, DrawsTheSameFromAGraph) {
  const int n = 5, vocabulary = 3000, steps = 10;
  const DeviceArray<__nv_bfloat16> logits(RandomBf16(size_t{n} * vocabulary, 14, 2.f));
  std::vector<SamplingRow> rows;
  for (int i = 0; i < n; ++i) {
    SamplingRow row = Plain(i == 0 ? 0.f : 0.5f + 0.2f * i);
    row.slot = i, row.seed = 100 + i, row.presence_penalty = 1.5f;
    row.top_p = i < 3 ? 1.f : 0.9f;
    rows.push_back(row);
  }
  const auto run = [&](bool in_graph) {
    DeviceArray<SamplingRow> device_rows(rows);
    DeviceArray<uint32_t> counts(size_t{n} * vocabulary);
    counts.FillBytes(0);
    DeviceArray<float> scratch(size_t{n} * vocabulary), logprobs(n);
    DeviceArray<int32_t> tokens(n);
    const SamplingArgs args{logits.data(),
                            device_rows.data(),
                            counts.data(),
                            nullptr,
                            scratch.data(),
                            tokens.data(),
                            logprobs.data(),
                            nullptr,
                            nullptr,
                            0,
                            n,
                            vocabulary};
    cudaStream_t stream;
    TANGRAM_CUDA_CHECK(cudaStreamCreate(&stream));
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    TANGRAM_CUDA_CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    RunSampling(args, stream);
    TANGRAM_CUDA_CHECK(cudaStreamEndCapture(stream, &graph));
    TANGRAM_CUDA_CHECK(cudaGraphInstantiate(&exec, graph, 0));
    std::vector<int32_t> all;
    for (int step = 0; step < steps; ++step) {
      std::vector<SamplingRow> now = rows;
      for (SamplingRow& row : now) row.step = step;
      device_rows.Upload(now);
      if (in_graph) {
        TANGRAM_CUDA_CHECK(cudaGraphLaunch(exec, stream));
      } else {
        RunSampling(args, stream);
      }
      TANGRAM_CUDA_CHECK(cudaStreamSynchronize(stream));
      for (int token : tokens.Download()) all.push_back(token);
    }
    TANGRAM_CUDA_CHECK(cudaGraphExecDestroy(exec));
    TANGRAM_CUDA_CHECK(cudaGraphDestroy(graph));
    TANGRAM_CUDA_CHECK(cudaStreamDestroy(stream));
    const auto counted = counts.Download();
    EXPECT_EQ(std::accumulate(counted.begin(), counted.end(), 0u), unsigned(n * steps));
    return all;
  };
  EXPECT_EQ(run(true), run(false));
}

}  // namespace
}  // namespace tangram::ops::cuda
