#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>

#include "ops/cuda/case_support.h"
#include "ops/cuda/compress/compress.h"
#include "ops/cuda/graph.h"
#include "ops/cuda/numeric.h"
#include "ops/cuda/step/append.h"
#include "ops/cuda/step/elementwise.h"

// Decode steps as an engine will run them: captured, every kernel started as early as it may be,
// the same graph for all steps. Against them: the same steps one kernel after another, with the
// simple attention.

namespace tangram {
namespace {

using ops::cuda::SplitMode;

constexpr int kChunk = 128, kWindow = 32, kSinks = 4;

struct Variant {
  const char* name;
  DecodeShape shape;
  SplitMode mode;
  bool append;  // else the layers' attentions follow each other directly
};

// At which boundary each sequence is at the step kSteps - 1; 0: the token is unused.
constexpr int kBoundaries[] = {1, 20, 2, 0, 3, 8};
constexpr int kTokens = std::size(kBoundaries);
constexpr int kSteps = 100;       // up to the boundary
constexpr int kStepsBehind = 10;  // on compressed rows

int NumTokens(int token, int step) {
  return kBoundaries[token] == 0 ? 0 : kBoundaries[token] * kChunk - (kSteps - 1) + step;
}

// Each sequence as long as it will ever be.
DecodeLoad LongestLoad(const DecodeShape& shape) {
  std::mt19937 random(1);
  DecodeLoad load{{}, {}, kChunk};
  int last = 0;
  for (int k : kBoundaries) {
    load.num_tokens.push_back(k == 0 ? 0 : (k + 1) * kChunk);
    last = std::max(last, k);
  }
  std::vector<int32_t> row(shape.num_rows(), 0);
  for (int k = 0; k <= last; ++k) {
    load.retained.insert(load.retained.end(), row.begin(), row.end());
    for (int32_t& r : row) {
      r = std::max<int32_t>(48, r + random() % (kChunk / kPageTokens) * kPageTokens);
    }
  }
  return load;
}

// The step of a model without products: a layer's queries are outputs of the layer before, of other
// heads, and its keys and values are made up.
class Chain {
 public:
  Chain(const Variant& variant, bool plain)
      : shape_(variant.shape),
        append_(variant.append),
        plain_(plain),
        case_(shape_, LongestLoad(shape_), {}, variant.mode, 132, true, 2),
        qkv_(size_t{kTokens} * shape_.qkv_width()),
        nan_(qkv_.size()),
        scores_(case_.num_virtual_pages() * kPageTokens),
        rows_(size_t{1} * shape_.layers * kTokens * heads()),
        position_(kTokens),
        boundary_(std::vector<int32_t>(std::begin(kBoundaries), std::end(kBoundaries))),
        inv_freq_(RotationFrequencies(shape_.head_dim)),
        norm_(std::vector<float>(shape_.head_dim, 1.0f)) {
    auto made_up = ops::cuda::RandomBf16(size_t{1} * OutputRow(0) * shape_.head_dim, 3);
    made_up.resize(size_t{1} * OutputRow(shape_.layers) * shape_.head_dim);
    memory_ = DeviceArray<__nv_bfloat16>(made_up);
    nan_.FillBytes(0xff);
    scores_.FillBytes(0xff);
  }

  // What the host gives for a step; what kernels write becomes NaN, the place of the step's keys
  // and values with it.
  void Prepare(int step) {
    std::vector<int32_t> num_tokens, position, rows;
    for (int t = 0; t < kTokens; ++t) {
      num_tokens.push_back(NumTokens(t, step));
      position.push_back(num_tokens[t] - 1);
    }
    for (int layer = 0; layer < shape_.layers; ++layer) {
      for (int t = 0; t < kTokens; ++t) {
        for (int head = 0; head < heads(); ++head) {
          rows.push_back(layer > 0 && head < shape_.q_heads
                             ? OutputRow(layer - 1) + t * shape_.q_heads +
                                   (head + 1) % shape_.q_heads
                             : (layer * kTokens + (t + step) % kTokens) * heads() + head);
        }
      }
    }
    case_.SetNumTokens(num_tokens);
    position_.Upload(position);
    rows_.Upload(rows);
    case_.PoisonOutputs();
    TANGRAM_CUDA_CHECK(
        cudaMemset(Output(0), 0xff, memory_.bytes() - 2 * (Output(0) - memory_.data())));
    for (int layer = 0; append_ && layer < shape_.layers; ++layer) {
      nan_.FillBytes(0xff);
      Append(nan_.data(), layer, nullptr);
    }
    TANGRAM_CUDA_CHECK(cudaDeviceSynchronize());
  }

  void Run(cudaStream_t stream) {
    Link(stream, [&] { case_.Plan(stream); });
    for (int layer = 0; layer < shape_.layers; ++layer) {
      auto attention = case_.attention_params(layer);
      attention.out = Output(layer);
      attention.early_start = !plain_ && (append_ || layer > 0);
      if (append_) {
        attention.q = qkv_.data();
        attention.q_stride = shape_.qkv_width();
        const int32_t* rows = rows_.data() + size_t{1} * layer * kTokens * heads();
        Link(stream, [&] {
          ops::cuda::RunGatherRows(
              {rows, memory_.data(), qkv_.data(), kTokens * heads(), shape_.head_dim}, stream);
        });
        Link(stream, [&] { Append(qkv_.data(), layer, stream); });
      }
      Link(stream, [&] {
        plain_ ? ops::cuda::RunDecodeAttentionSimple(attention, stream)
               : ops::cuda::RunDecodeAttention(attention, case_.tensor_map(), stream);
      });
      Link(stream, [&] { ops::cuda::RunDecodeCombine(attention, stream); });
    }
  }

  // All sequences stand at a boundary.
  void Compress(cudaStream_t stream) {
    const auto plan = case_.plan_params();
    // Without the unused token the batch falls in two.
    for (int first = 0, last = 0; first < kTokens; first = last + 1) {
      for (last = first; last < kTokens && kBoundaries[last] > 0;) ++last;
      const ops::cuda::CompressParams params{{last - first, plan.batch.slot + first,
                                              boundary_.data() + first, plan.batch.table + first},
                                             plan.tables,
                                             case_.attention_params(0).kv,
                                             scores_.data(),
                                             shape_.kv_heads,
                                             0,
                                             shape_.layers,
                                             kWindow,
                                             kSinks};
      Link(stream, [&] { ops::cuda::RunScoreKeyDiff(params, stream); });
      Link(stream, [&] { ops::cuda::RunSelectAndCompact(params, stream); });
    }
  }

  // Of all layers: [L][T][Hq][d].
  std::vector<__nv_bfloat16> Outputs() const {
    const auto all = memory_.Download();
    return {all.begin() + (Output(0) - memory_.data()), all.end()};
  }
  std::vector<uint8_t> Pool() const { return case_.Pool(); }

 private:
  int heads() const { return shape_.q_heads + 2 * shape_.kv_heads; }
  // `memory_` is rows of a head: made-up queries, keys and values of all layers, then outputs.
  int OutputRow(int layer) const {
    return kTokens * (shape_.layers * heads() + layer * shape_.q_heads);
  }
  __nv_bfloat16* Output(int layer) const {
    return memory_.data() + size_t{1} * OutputRow(layer) * shape_.head_dim;
  }

  void Append(__nv_bfloat16* qkv, int layer, cudaStream_t stream) {
    const auto plan = case_.plan_params();
    ops::cuda::RunAppend(
        {qkv, kTokens, shape_.q_heads, shape_.kv_heads, norm_.data(), norm_.data(), 1e-6f,
         position_.data(), plan.batch.slot, plan.batch.table, inv_freq_.data(), 1, false,
         case_.attention_params(layer).kv, plan.tables, layer, nullptr, nullptr, !plain_},
        stream);
  }
  template <class Launch>
  void Link(cudaStream_t stream, const Launch& launch) {
    launch();
    if (plain_) TANGRAM_CUDA_CHECK(cudaStreamSynchronize(stream));
  }

  DecodeShape shape_;
  bool append_, plain_;
  DecodeCase case_;
  DeviceArray<__nv_bfloat16> qkv_, nan_, memory_;
  DeviceArray<float> scores_;
  DeviceArray<int32_t> rows_, position_, boundary_;
  DeviceArray<float> inv_freq_, norm_;
};

class DecodeChainTest : public testing::TestWithParam<Variant> {
 protected:
  // Both round, by 3e-3 in all, and a layer passes on what it was given. One of n tokens too few
  // makes a difference of about 1/sqrt(n).
  static void ExpectNear(const std::vector<__nv_bfloat16>& got,
                         const std::vector<__nv_bfloat16>& expected) {
    const DecodeShape& shape = GetParam().shape;
    const size_t d = shape.head_dim;
    for (size_t row = 0; row < got.size() / d; ++row) {
      const int token = static_cast<int>(row / shape.q_heads % kTokens);
      const int layer = static_cast<int>(row / shape.q_heads / kTokens);
      if (kBoundaries[token] == 0) continue;
      const std::vector<__nv_bfloat16> mine(&got[row * d], &got[row * d] + d);
      std::vector<double> theirs;
      for (size_t i = 0; i < d; ++i) theirs.push_back(__bfloat162float(expected[row * d + i]));
      ASSERT_LT(ops::cuda::RelativeError(mine, theirs), 1e-2 * (1 + layer))
          << "layer " << layer << " token " << token << " head " << row % shape.q_heads;
    }
  }
};

TEST_P(DecodeChainTest, CapturedAndStartedEarlyAsOneByOne) {
  Chain chain(GetParam(), false), plain(GetParam(), true);
  chain.Prepare(0);
  chain.Run(nullptr);  // loads the kernels
  Graph step([&](cudaStream_t stream) { chain.Run(stream); });
  for (int i = 0; i < kSteps + kStepsBehind; ++i) {
    plain.Prepare(i);
    plain.Run(nullptr);
    chain.Prepare(i);
    step.Replay();
    const auto outputs = chain.Outputs();
    ExpectNear(outputs, plain.Outputs());
    chain.Prepare(i);
    step.Replay();
    const auto again = chain.Outputs();
    ASSERT_EQ(0, std::memcmp(outputs.data(), again.data(), outputs.size() * sizeof(outputs[0])));
    if (i == kSteps - 1) {
      plain.Compress(nullptr);
      chain.Prepare(i);
      Graph([&](cudaStream_t stream) {
        chain.Run(stream);
        chain.Compress(stream);
      }).Replay();
    }
    if (i >= kSteps - 1 || i % 10 == 0) {
      ASSERT_TRUE(chain.Pool() == plain.Pool()) << "step " << i;
    }
    ASSERT_FALSE(HasFatalFailure()) << "step " << i;
  }
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, DecodeChainTest,
    testing::Values(
        Variant{"bf16", {3, 8, 2, 128, 2, DType::kBF16}, SplitMode::kEqualRanges, true},
        Variant{"invariant", {3, 8, 2, 128, 1, DType::kBF16}, SplitMode::kBatchInvariant, true},
        Variant{"fp8_group8", {3, 16, 2, 128, 2, DType::kF8E4M3}, SplitMode::kEqualRanges, true},
        Variant{"d64", {3, 7, 1, 64, 1, DType::kBF16}, SplitMode::kEqualRanges, true},
        Variant{
            "attention_alone", {4, 8, 2, 128, 2, DType::kBF16}, SplitMode::kEqualRanges, false}),
    [](const auto& test) { return test.param.name; });

}  // namespace
}  // namespace tangram
