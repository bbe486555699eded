// The default model, SmolLM2-135M-Instruct in Q4_1, against a float32 forward pass on its
// dequantised weights (tools/make_gguf_golden.py).

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "base/check.h"
#include "model/safetensors.h"
#include "support/model_session.h"

namespace tangram {
namespace {

// Largest difference of a position's logits over its largest logit: the promise that the project
// makes.
constexpr float kBound = 1e-3f;
constexpr int kPrompts = 20, kAnswer = 64, kStep = 512;

using Numbers = std::vector<float>;

const std::map<std::string, Numbers>& Golden() {
  static const auto golden = [] {
    const auto file =
        SafetensorsFile::Open(TANGRAM_SOURCE_DIR "/tests/unit/model/smollm2_golden.safetensors");
    EXPECT_TRUE(file.has_value()) << file.error().message;
    std::map<std::string, Numbers> numbers;
    for (const StoredTensor& tensor : file->tensors()) {
      const auto* data = tensor.view.as<float>();
      numbers[tensor.name].assign(data, data + tensor.view.shape.count());
    }
    return numbers;
  }();
  return golden;
}

const Numbers& Get(int prompt, const char* name) {
  return Golden().at(std::to_string(prompt) + "." + name);
}

// The relative error of one position's logits, over the sampled entries, the largest and the sum.
float RelativeError(int prompt, size_t sample, std::span<const float> logits) {
  const Numbers& entries = Golden().at("entries");
  const Numbers &samples = Get(prompt, "samples"), &summary = Get(prompt, "summary");
  const float largest = *std::ranges::max_element(logits);
  double sum = 0;
  for (const float logit : logits) sum += std::exp(double{logit} - largest);
  const float log_sum = largest + static_cast<float>(std::log(sum));
  float error = std::max(std::abs(largest - summary[2 * sample]),
                         std::abs(log_sum - summary[2 * sample + 1]));
  float scale = std::abs(summary[2 * sample]);
  for (size_t i = 0; i < entries.size(); ++i) {
    const float expected = samples[sample * entries.size() + i];
    error = std::max(error, std::abs(logits[static_cast<size_t>(entries[i])] - expected));
    scale = std::max(scale, std::abs(expected));
  }
  return error / scale;
}

std::unique_ptr<Model> Load(ops::Backend& backend) {
  auto model = LoadModel(TANGRAM_SOURCE_DIR "/models/SmolLM2-135M-Instruct.Q4_1.gguf", {}, backend);
  TANGRAM_CHECK(model.has_value(), "{}; scripts/setup fetches it", model.error().message);
  return std::move(*model);
}

class Smollm2Test : public testing::TestWithParam<int> {
 protected:
  static void SetUpTestSuite() {
    backend_ = ops::CreateCpuBackend(0);
    model_ = Load(*backend_);
  }
  static void TearDownTestSuite() {
    model_.reset();
    backend_.reset();
  }

  static inline std::unique_ptr<ops::Backend> backend_;
  static inline std::unique_ptr<Model> model_;
};

TEST_P(Smollm2Test, LogitsAndGreedyTokensEqualFloat32) {
  const int prompt = GetParam();
  const Numbers &numbers = Get(prompt, "tokens"), &positions = Get(prompt, "positions");
  const std::vector<int32_t> tokens(numbers.begin(), numbers.end());
  const int num_prompt = static_cast<int>(tokens.size()) - kAnswer;
  ModelSession session(*model_, *backend_, DType::kF32, static_cast<int>(tokens.size()), 16, 3);
  const size_t vocab = model_->config().vocab_size;
  size_t sample = 0;  // the next of `positions`
  float worst = 0;
  const auto check = [&](std::span<const float> logits) {
    worst = std::max(worst, RelativeError(prompt, sample++, logits));
  };

  std::vector<float> last;  // logits behind the newest token
  for (int begin = 0; begin < num_prompt; begin += kStep) {
    const int n = std::min(kStep, num_prompt - begin);
    std::vector<int32_t> rows;
    for (size_t i = sample; i < positions.size() && positions[i] < begin + n; ++i) {
      rows.push_back(static_cast<int32_t>(positions[i]) - begin);
    }
    const auto logits = session.Step(std::span(tokens).subspan(begin, n), rows);
    for (size_t i = 0; i < rows.size(); ++i) check(std::span(logits).subspan(i * vocab, vocab));
    if (!rows.empty()) last.assign(logits.end() - static_cast<int64_t>(vocab), logits.end());
  }
  int same = 0;
  for (int i = 0; i < kAnswer; ++i) {
    const int32_t wanted = tokens[num_prompt + i];
    const float best = *std::ranges::max_element(last);
    // The float32 reference's choice is ours too, or as good within the bound.
    EXPECT_LE(best - last[wanted], kBound * std::abs(best)) << "answer token " << i;
    same += ArgMax(last) == wanted;
    const int32_t row = 0;
    last = session.Step(std::span(tokens).subspan(num_prompt + i, 1), {&row, 1});
    if (sample < positions.size() && positions[sample] == static_cast<float>(num_prompt + i)) {
      check(last);
    }
  }
  EXPECT_EQ(sample, positions.size());
  EXPECT_LE(worst, kBound);
  std::printf("%d tokens: relative error %.1e; %d of %d greedy tokens are the reference's\n",
              num_prompt, worst, same, kAnswer);
}

// The naive backend computes in float32 throughout: what is left is the order of sums.
TEST(Smollm2ReferenceTest, LogitsEqualFloat32MoreClosely) {
  auto backend = ops::CreateReferenceBackend();
  auto model = Load(*backend);
  const Numbers &numbers = Get(0, "tokens"), &positions = Get(0, "positions");
  const std::vector<int32_t> tokens(numbers.begin(), numbers.end() - kAnswer);
  std::vector<int32_t> rows(positions.begin(), positions.begin() + 8);  // the prompt's
  ModelSession session(*model, *backend, DType::kF32, 64);
  const auto logits = session.Step(tokens, rows);
  const size_t vocab = model->config().vocab_size;
  for (size_t i = 0; i < rows.size(); ++i) {
    EXPECT_LE(RelativeError(0, i, std::span(logits).subspan(i * vocab, vocab)), 1e-5f) << i;
  }
}

INSTANTIATE_TEST_SUITE_P(Prompts, Smollm2Test, testing::Range(0, kPrompts));

}  // namespace
}  // namespace tangram
